"""Computes the probabilities of many pictures: decoded in threads while the devices compute."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.config.schema import Dataset
from alexnet_jax.data.images import BadImage
from alexnet_jax.evaluation import classifier, ensemble, pictures
from alexnet_jax.evaluation.classifier import Classifier
from alexnet_jax.evaluation.prediction.picture_sources import PictureSource
from alexnet_jax.evaluation.trained_net import Checkpoint
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import class_difference

_Form = tuple[int, str, str]  # the settings that decide how a picture becomes an image


class Answer(NamedTuple):
    """The probabilities of a picture, or why there are none.

    Attributes:
      name: the name of the picture.
      log_p_K: (K,) float32, the logarithms of the probabilities; None if there are none.
      problem: why there are none, in a few words that follow the name; '' if there are.
    """

    name: str
    log_p_K: np.ndarray | None
    problem: str = ''


class _Decoded(NamedTuple):
    """A picture as the image of each form, (size, size, 3) uint8, or why it cannot be read."""

    name: str
    images: dict[_Form, np.ndarray]
    problem: str = ''


def load(workdirs: Sequence[Path], checkpoint: Checkpoint) -> list[Classifier]:
    """Loads nets whose outputs are averaged.

    Args:
      workdirs: the folders of the runs.
      checkpoint: of each run: 'newest'; 'best', the one with the lowest test error; or its training
        steps.

    Raises:
      UserError: a run cannot be loaded, or two nets have different classes.
    """
    nets: list[Classifier] = []
    for workdir in workdirs:
        nets.append(classifier.load(workdir, checkpoint=checkpoint))
        places = f'in {printable(str(workdirs[0]))}', f'in {printable(str(workdir))}'
        if difference := class_difference(nets[0].classes, nets[-1].classes, places):
            raise UserError(
                f'{workdirs[0]} and {workdir} have different classes ({difference}): the nets of '
                'an ensemble need the same classes in the same order'
            )
    return nets


def predict(
    nets: Sequence[Classifier], sources: Iterable[PictureSource], views: int | None = None
) -> Generator[list[Answer], None, None]:
    """Computes the probabilities of pictures, the mean over the nets.

    A picture is read once, and decoded once for each distinct size, filter and background.

    Args:
      nets: nets with the same classes; the rest of their settings may differ.
      sources: the pictures.
      views: how many views of a picture are averaged: 1, 5 or 10; None: as each net is evaluated.

    Yields:
      The answers for the pictures of a batch, in their order.
    """
    forms = {_form(net.config.dataset): net.config.dataset for net in nets}
    batch_size = max(net.batch_size for net in nets)

    def decode(source: PictureSource) -> _Decoded:
        try:
            picture = source.picture
            data = pictures.read_file(picture) if isinstance(picture, str) else picture
            images = {form: pictures.read(data, dataset) for form, dataset in forms.items()}
        except (BadImage, OSError, MemoryError) as error:
            return _Decoded(source.name, {}, pictures.describe_error(error))
        return _Decoded(source.name, images)

    batch: list[_Decoded] = []
    number = 0  # of pictures in the batch that could be decoded
    for decoded in pictures.map_ahead(decode, sources, batch_size):
        batch.append(decoded)
        number += not decoded.problem
        if number == batch_size or not number:
            yield [*_answer(nets, batch, views)]
            batch, number = [], 0
    if batch:
        yield [*_answer(nets, batch, views)]


def _answer(
    nets: Sequence[Classifier], batch: Sequence[_Decoded], views: int | None
) -> Iterator[Answer]:
    decoded = [x for x in batch if not x.problem]
    log_p_BK = iter(_log_probabilities(nets, decoded, views) if decoded else ())
    for name, _, problem in batch:
        if problem:
            yield Answer(name, None, problem)
        elif np.isnan(log_p_K := next(log_p_BK)).any():
            yield Answer(name, None, 'has outputs that are not numbers (NaN)')
        else:
            yield Answer(name, log_p_K)


def _log_probabilities(
    nets: Sequence[Classifier], decoded: Sequence[_Decoded], views: int | None
) -> np.ndarray:
    """Computes the logarithm of the mean probabilities over the nets, (B, K) float32."""
    images = {form: np.stack([x.images[form] for x in decoded]) for form in decoded[0].images}
    return ensemble.mean(
        [net.log_probabilities(images[_form(net.config.dataset)], views) for net in nets]
    )


def _form(dataset: Dataset) -> _Form:
    return dataset.image_size, dataset.resize, dataset.background
