"""Reads and writes `inputs.npz`: what a net must know of its training set to take a picture (§2).

With it a workdir is complete: it can be copied to a machine that does not have the data set.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import system_errors
from alexnet_jax.data.pixel_statistics import Colours
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

_COLOURS = ('mean', 'eigenvalues', 'eigenvectors')


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """The mean image, the colours and the names of the classes of a training set.

    Attributes:
      mean_HWC: (size, size, 3) float32, red, green and blue; it is subtracted from every image.
      colours: the distribution of the colours, for the colour noise (§4.1).
      classes: the name of each class in the data set, such as a WordNet id.
      descriptions: a description of each class in words; '' where there is none.

    Raises:
      ValueError: the shapes do not fit together.
    """

    mean_HWC: np.ndarray
    colours: Colours
    classes: tuple[str, ...]
    descriptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.descriptions:
            object.__setattr__(self, 'descriptions', ('',) * len(self.classes))
        if problem := self._problem():
            raise ValueError(problem)

    def _problem(self) -> str:
        mean_HWC, colours = self.mean_HWC, self.colours
        rows, columns, *rest = mean_HWC.shape if mean_HWC.ndim == 3 else (0, 1)
        if mean_HWC.dtype != np.float32 or rows != columns or rest != [3] or not rows:
            return f'the mean image is {mean_HWC.shape} {mean_HWC.dtype}'
        arrays = [mean_HWC, *(getattr(colours, name) for name in _COLOURS)]
        if [x.shape for x in arrays[1:]] != [(3,), (3,), (3, 3)]:
            return f'the colours have the shapes {[x.shape for x in arrays[1:]]}'
        if not all(np.isfinite(x).all() for x in arrays):
            return 'a value is not finite'
        if len(self.descriptions) != len(self.classes):
            return f'{len(self.classes):,} classes and {len(self.descriptions):,} descriptions'
        if not all(isinstance(x, str) for x in (*self.classes, *self.descriptions)):
            return 'the name of a class is not a text'
        if len(set(self.classes)) != len(self.classes):
            return 'two classes have the same name'
        return ''

    def check(self, size: int, classes: int) -> None:
        """Checks that the inputs suit a net.

        Args:
          size: pixels across an image of the net.
          classes: the number of its classes.

        Raises:
          ValueError: they do not; the message says how in a few words.
        """
        if len(self.mean_HWC) != size:
            raise ValueError(f'a mean image of {len(self.mean_HWC)} pixels, not of {size}')
        if len(self.classes) != classes:
            raise ValueError(f'{len(self.classes):,} classes, not {classes:,}')


def write(file: Path, inputs: Inputs) -> None:
    """Writes an inputs.npz, without pickle.

    Raises:
      UserError: it cannot be written.
    """
    names = json.dumps([inputs.classes, inputs.descriptions]).encode()
    arrays: dict[str, Any] = {name: getattr(inputs.colours, name) for name in _COLOURS}
    arrays |= {'mean_HWC': inputs.mean_HWC, 'names': np.frombuffer(names, np.uint8)}
    with (
        explain_os_errors(f'write {file}'),
        atomic_files.replace(file) as partial,
        partial.open('wb') as stream,
    ):
        np.savez_compressed(stream, **arrays)


def read(file: Path, size: int, classes: int, remedy: str) -> Inputs | None:
    """Reads an inputs.npz; the checksums of the archive are compared.

    Args:
      file: the file.
      size: pixels across an image of the net.
      classes: the number of classes of the net.
      remedy: how the file can be had again once it has been moved elsewhere, for a message.

    Returns:
      The inputs; None if there is no such file.

    Raises:
      UserError: the file cannot be read, is damaged, or is of another net.
    """
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise UserError(f'{file} is a folder: move it elsewhere; then {remedy}') from error
    except (OSError, MemoryError) as error:
        raise system_errors.user_error(f'cannot read {file}', error) from error
    try:
        inputs = _parse(data)
        inputs.check(size, classes)
    except Exception as error:  # damaged archives raise many kinds of errors
        raise UserError(
            f'{file} is damaged ({first_line(error)}): move it elsewhere; then {remedy}'
        ) from error
    return inputs


def _parse(data: bytes) -> Inputs:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        classes, descriptions = json.loads(archive['names'].tobytes())
        colours = Colours(*(archive[name].astype(np.float64) for name in _COLOURS))
        return Inputs(archive['mean_HWC'], colours, tuple(classes), tuple(descriptions))


def class_difference(
    classes: Sequence[str], others: Sequence[str], places: tuple[str, str] = ('in the run', 'here')
) -> str:
    """Names the first class that differs in a few words; '' if none does.

    Args:
      classes: the names of the classes in their order.
      others: the names to compare them with.
      places: where each of the two lists is from, for the message.
    """
    if len(classes) != len(others):
        return f'{len(classes):,} and {len(others):,} classes'
    for number, (name, other) in enumerate(zip(classes, others, strict=True)):
        if name != other:
            one, two = (printable(x) for x in (name, other))
            return f'class {number} is {one} {places[0]} and {two} {places[1]}'
    return ''
