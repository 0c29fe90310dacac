"""Reads the files of one checkpoint, arrays by Orbax and JSON, and finds out what an error means.

An error is damage only if the system can read the bytes of every file: too many open files, a stale
handle or a lack of memory say nothing about the checkpoint.
"""

import asyncio
import errno
import json
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.user_errors import OUT_OF_MEMORY, UserError, causes
from alexnet_jax.training.checkpoint.digests import Damage, Digests

# The items of a checkpoint, each a folder; those of JSON hold one file.
STATE, POSITION, DIGESTS = 'state', 'position', 'digests'
JSON_FILE = 'metadata'

# What the system says of files that are not there, or are of another kind.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Vanished(Exception):
    """The folder of a checkpoint is gone: the run that is training has removed it."""


def read_json(step_folder: Path, item: str) -> Any:
    """Reads an item of a checkpoint that is JSON.

    Raises:
      Damage: the file is missing or is not JSON.
      Vanished: the folder of the checkpoint is gone.
      UserError: the system cannot read it.
    """
    file = step_folder / item / JSON_FILE
    try:
        return json.loads(file.read_bytes())
    except Exception as error:
        raise explain(step_folder, error, f'{item}/{JSON_FILE} is not readable') from error


def read_arrays(step_folder: Path, target: Any) -> Any:
    """Reads arrays of the state to the host.

    Args:
      step_folder: the folder of a checkpoint.
      target: a tree like the state, or like a part of it, of ShapeDtypeStruct or anything with a
        shape; the arrays have the shapes and dtypes that they were saved with.

    Returns:
      A tree like `target`, of NumPy arrays.

    Raises:
      Damage: an array cannot be read; the text names it.
      Vanished: the folder of the checkpoint is gone.
      UserError: the system cannot read it.
    """
    arguments = ocp.args.PyTreeRestore(
        item=target,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
        partial_restore=True,
    )
    try:
        tree = _handler().restore(epath.Path(step_folder / STATE), args=arguments)
        missing = jax.tree.structure(tree) != jax.tree.structure(target)
    except Exception as error:
        raise explain(step_folder, error, 'its arrays cannot be read') from error
    if missing:
        raise explain(step_folder, ValueError(), 'arrays are missing')
    for name, array in leaves_by_name(tree).items():
        if not isinstance(array, np.ndarray):
            raise explain(step_folder, ValueError(), f'{name} is missing')
        if array.dtype == object:
            raise explain(step_folder, array.item(), f'{name} cannot be read') from array.item()
    return tree


def stored_tree(step_folder: Path) -> Any:
    """Reads the tree of the arrays that were saved, of a checkpoint without digests.

    Returns:
      Nested dicts and lists of values with a shape and a dtype, with 'step' and 'params'.

    Raises:
      Damage, Vanished, UserError: as for `read_arrays`.
    """
    try:
        tree = _handler().metadata(epath.Path(step_folder / STATE)).tree
        leaves = jax.tree.leaves(tree)
        if not {'step', 'params'} <= tree.keys() or any(x.shape is None for x in leaves):
            raise ValueError('arrays are missing')
        return tree
    except Exception as error:
        raise explain(step_folder, error, 'its arrays cannot be read') from error


def read_digests(step_folder: Path) -> Digests | None:
    """Reads the digests of a checkpoint.

    Returns:
      The digests; None if an earlier version, which had none, wrote the checkpoint.

    Raises:
      Damage: they are missing, or are not what was written.
      OtherVersion: a later version wrote them.
      Vanished: the folder of the checkpoint is gone.
      UserError: the system cannot read them.
    """
    try:
        os.stat(step_folder / DIGESTS / JSON_FILE)
    except OSError as error:
        if error.errno not in _ABSENT or DIGESTS in _saved_items(step_folder):
            raise explain(step_folder, error, 'its digests are missing') from error
        if not step_folder.is_dir():
            raise Vanished(str(step_folder)) from error
        return None
    return Digests.from_json(read_json(step_folder, DIGESTS))


def _saved_items(step_folder: Path) -> list[str]:
    """Returns the items that Orbax lists for a checkpoint; [] where its list is not readable."""
    try:
        return list(
            json.loads((step_folder / '_CHECKPOINT_METADATA').read_bytes())['item_handlers']
        )
    except (OSError, ValueError, KeyError, TypeError):
        return []


def explain(step_folder: Path, error: BaseException, damage: str) -> Exception:
    """Finds out what an error in reading a checkpoint means.

    Args:
      step_folder: the folder of the checkpoint.
      error: what was raised.
      damage: what to say if the checkpoint is damaged, in a few words.

    Returns:
      The exception to raise: a UserError for an error of the system, with the checkpoint left as
      it is; Vanished; or Damage.
    """
    trouble = trouble_of_system(error)
    try:
        if not trouble:
            os.stat(step_folder)
            _read_files(step_folder)
    except OSError as reading_error:
        trouble = '' if reading_error.errno in _ABSENT else _describe(reading_error)
    except MemoryError as reading_error:
        trouble = trouble_of_system(reading_error)
    if trouble:
        return UserError(
            f'cannot read checkpoint {step_folder.name} in {step_folder.parent}: {trouble}; this '
            'does not mean that it is damaged, and nothing was changed'
        )
    return Damage(damage) if step_folder.is_dir() else Vanished(str(step_folder))


def trouble_of_system(error: BaseException, ignored: Collection[int] = _ABSENT) -> str:
    """Returns the error of the system behind an error, in a few words; '' if there is none.

    Args:
      error: what was raised, by whatever library.
      ignored: the numbers of the system's errors that do not count.
    """
    for link in causes(error):
        if isinstance(link, MemoryError):
            return 'out of memory'
        if isinstance(link, OSError) and link.errno and link.errno not in ignored:
            return _describe(link)
        # TensorStore has the number of the system's error in its text.
        number = re.search(r"OS error (\d+)|os_error_code='(\d+)'", str(link))
        if number is not None:
            if (code := int(number[1] or number[2])) not in ignored:
                return os.strerror(code)
        elif OUT_OF_MEMORY.search(str(link)):
            return 'out of memory'
    return ''


def _describe(error: OSError) -> str:
    where = f' ({error.filename})' if error.filename else ''
    return f'{error.strerror or type(error).__name__}{where}'


def _read_files(folder: Path) -> None:
    """Reads every file of a folder, and raises the system's error where it cannot."""
    for parent, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            with open(os.path.join(parent, name), 'rb', buffering=0) as file:
                while file.read(1 << 20):
                    pass


def _raise(error: OSError) -> None:
    raise error


def _handler() -> ocp.PyTreeCheckpointHandler:
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _EachArrayAlone()), (jax.Array, _EachShapeAlone())
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class _EachArrayAlone(ocp.type_handlers.NumpyHandler):
    """Reads all arrays at once, and returns an error in place of each that cannot be read.

    Orbax's own handler raises the first error and closes the event loop while others are still
    being read, each of which then prints a traceback, "Event loop is closed"; and it does not say
    which array it was.
    """

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.RestoreArgs] | None = None,
    ) -> Sequence[np.ndarray]:
        """Reads arrays; an error is an array of dtype object with no dimensions."""
        arguments = args or [ocp.RestoreArgs()] * len(infos)
        read = super().deserialize
        results = await asyncio.gather(
            *(read([info], [each]) for info, each in zip(infos, arguments, strict=True)),
            return_exceptions=True,
        )
        return [_boxed(x) if isinstance(x, BaseException) else x[0] for x in results]


class _EachShapeAlone(ocp.type_handlers.ArrayHandler):
    """Reads all shapes, and raises an error only once none is being read any more."""

    async def metadata(self, infos: Sequence[ocp.type_handlers.ParamInfo]) -> Sequence[Any]:
        """Reads the shapes and dtypes of arrays."""
        read = super().metadata
        results = await asyncio.gather(*(read([info]) for info in infos), return_exceptions=True)
        shapes = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            shapes.append(result[0])
        return shapes


def _boxed(error: BaseException) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = error
    return box
