"""Files of what is answered to each test image, and of the errors of each class."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.evaluation import confusion, error_rates
from alexnet_jax.evaluation.trained_net import Truth
from alexnet_jax.runtime import atomic_files

ANSWERS = 5  # that are written for each image


def write(
    folder: Path, truth: Truth, p_NK: np.ndarray, extra: Mapping[str, np.ndarray]
) -> list[Path]:
    """Writes predictions.csv, probabilities.npz, per_class.csv and the confusion matrix.

    Args:
      folder: is there already.
      truth: the test images.
      p_NK: (N, K) float32, their probabilities.
      extra: arrays for probabilities.npz, beside 'probabilities' and 'labels'.

    Returns:
      The paths.
    """
    counts_KK = confusion.matrix(p_NK, truth.labels)
    with atomic_files.whole(folder / 'probabilities.npz') as partial, partial.open('wb') as file:
        arrays: dict[str, Any] = {'probabilities': p_NK, 'labels': truth.labels, **extra}
        np.savez_compressed(file, **arrays)
    _write_csv(folder / 'predictions.csv', _predictions(truth, p_NK))
    _write_csv(folder / 'per_class.csv', per_class(truth, p_NK, counts_KK))
    ours = [folder / name for name in ('predictions.csv', 'probabilities.npz', 'per_class.csv')]
    return ours + confusion.write(folder, counts_KK, truth.classes)


def most_probable(p_NK: np.ndarray, number: int) -> np.ndarray:
    """(N, number) int64: labels, the most probable first; of equal ones the lower first."""
    return np.argsort(-p_NK, axis=1, kind='stable')[:, :number]


def _predictions(truth: Truth, p_NK: np.ndarray) -> Iterator[Sequence[Any]]:
    best = most_probable(p_NK, ANSWERS)
    places = range(1, best.shape[1] + 1)
    answers = [name for i in places for name in (f'answer {i}', f'probability {i}')]
    yield ['index', 'name', 'class', *answers]
    for index, (name, label) in enumerate(zip(truth.names, truth.labels, strict=True)):
        row = ((truth.classes[k], f'{p_NK[index, k]:.6g}') for k in best[index])
        yield [index, name, truth.classes[label], *(cell for pair in row for cell in pair)]


def per_class(truth: Truth, p_NK: np.ndarray, counts_KK: np.ndarray) -> Iterator[Sequence[Any]]:
    """The rows of per_class.csv, with a header; errors as fractions, '' where there is no image."""
    yield ['class', 'images', 'top-1 error', 'top-5 error', 'most frequent mistake', 'how often']
    credits_N = error_rates.credits_of(p_NK, truth.labels).values()
    wrong_KK = confusion.mistakes(counts_KK)
    for k, name in enumerate(truth.classes):
        own = truth.labels == k
        errors = [
            f'{1 - c[own].mean(dtype=np.float64):.6g}' if own.any() else '' for c in credits_N
        ]
        often = int(wrong_KK[k].max())
        other = truth.classes[int(wrong_KK[k].argmax())] if often else ''
        yield [name, int(own.sum()), *errors, other, often or '']


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic_files.whole(path) as partial,
        # Names of files may hold bytes that are no UTF-8.
        partial.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file,
    ):
        csv.writer(file).writerows(rows)
