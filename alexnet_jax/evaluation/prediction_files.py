"""Files with the answers for each test image, and with the errors of each class.

Names that a spreadsheet would take for formulas have an apostrophe before them in the CSV files.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.evaluation import confusion, error_rates
from alexnet_jax.evaluation.trained_net import LabelledImages
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.text_table import write_csv

ANSWERS = 5  # written for each image


def write(
    folder: Path, images: LabelledImages, log_p_NK: np.ndarray, extra: Mapping[str, np.ndarray]
) -> list[Path]:
    """Writes predictions.csv, probabilities.npz, per_class.csv and the confusion matrix.

    Args:
      folder: an existing folder.
      images: the test images.
      log_p_NK: (N, K) float32, the log probabilities for these images.
      extra: arrays for probabilities.npz in addition to 'probabilities' and 'labels'.

    Returns:
      The paths of the files.
    """
    counts_KK = confusion.matrix(log_p_NK, images.labels)
    with atomic_files.replace(folder / 'probabilities.npz') as partial, partial.open('wb') as file:
        arrays: dict[str, Any] = {
            'probabilities': np.exp(log_p_NK),
            'labels': images.labels,
            **extra,
        }
        np.savez_compressed(file, **arrays)
    write_csv(folder / 'predictions.csv', _predictions(images, log_p_NK))
    write_csv(folder / 'per_class.csv', per_class(images, log_p_NK, counts_KK))
    paths = [folder / name for name in ('predictions.csv', 'probabilities.npz', 'per_class.csv')]
    return paths + confusion.write(folder, counts_KK, images.classes)


def _predictions(images: LabelledImages, log_p_NK: np.ndarray) -> Iterator[Sequence[Any]]:
    best, p_NK = error_rates.most_probable(log_p_NK, ANSWERS), np.exp(log_p_NK)
    ranks = range(1, best.shape[1] + 1)
    answers = [name for i in ranks for name in (f'answer {i}', f'probability {i}')]
    yield ['index', 'name', 'class', *answers]
    for index, (name, label) in enumerate(zip(images.names, images.labels, strict=True)):
        row = ((images.classes[k], f'{p_NK[index, k]:.6g}') for k in best[index])
        yield [index, name, images.classes[label], *(cell for pair in row for cell in pair)]


def per_class(
    images: LabelledImages, log_p_NK: np.ndarray, counts_KK: np.ndarray
) -> Iterator[Sequence[Any]]:
    """Yields the header and the rows of per_class.csv: errors are fractions, '' without images."""
    yield ['class', 'images', 'top-1 error', 'top-5 error', 'most frequent mistake', 'how often']
    errors_N = error_rates.top_errors(log_p_NK, images.labels).values()
    wrong_KK = confusion.mistakes(counts_KK)
    answers = confusion.answer_names(counts_KK, images.classes)
    for k, name in enumerate(images.classes):
        own = images.labels == k
        errors = [f'{e[own].mean(dtype=np.float64):.6g}' if own.any() else '' for e in errors_N]
        frequency = int(wrong_KK[k].max())
        mistake = answers[int(wrong_KK[k].argmax())] if frequency else ''
        yield [name, int(own.sum()), *errors, mistake, frequency or '']
