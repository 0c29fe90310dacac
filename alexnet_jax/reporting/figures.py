"""Pictures as PNG, and what the paper's figures 3 and 4 show of a trained net (§6.1).

Letters: N test images, K classes, Q queries, U units; H, W, I, O as in model/alexnet.py.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from alexnet_jax.evaluation import confusion


def png(picture: np.ndarray) -> str:
    """A (rows, columns, 3) uint8 picture as the address of an <img>: the PNG itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def thumbnail(picture: np.ndarray, across: int = 160) -> np.ndarray:
    """The picture, at most so many pixels across and high."""
    image = Image.fromarray(picture)
    image.thumbnail((across, across), Image.Resampling.LANCZOS)
    return np.asarray(image)


def colourfulness(kernel_HWIO: np.ndarray) -> float:
    """How much of its filters is colour: the mean over filters, from 0 to 1.

    Of one filter: the share of its squared weights that is gone when red, green and blue are
    replaced by their mean at every pixel. Grey ones have 0, those whose colours cancel (red against
    green) 1, those that read one colour alone 2/3, as Gaussian weights have on average. A filter of
    zeros has 0.
    """
    kernel = kernel_HWIO.astype(np.float64)
    all_O = (kernel**2).sum(axis=(0, 1, 2))
    grey_O = (kernel.mean(axis=2) ** 2).sum(axis=(0, 1)) * kernel.shape[2]
    return float(np.mean(1 - np.divide(grey_O, all_O, out=np.ones_like(all_O), where=all_O > 0)))


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0..count-1, evenly spaced: the middles of as many equal parts."""
    wanted = min(count, wanted)
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def examples(p_NK: np.ndarray, labels_N: np.ndarray, wanted: int) -> tuple[list[int], list[int]]:
    """Test images to show (Figure 4, left).

    Returns:
      Those spaced evenly through the test set, the others left aside; and the most confident
      mistakes, up to half of `wanted`, the most confident first.
    """
    guess_N, confidence_N = p_NK.argmax(axis=1), p_NK.max(axis=1)
    order = np.argsort(-confidence_N, kind='stable')
    mistakes = order[guess_N[order] != labels_N[order]][: wanted // 2].tolist()
    others = np.setdiff1d(np.arange(len(labels_N)), mistakes)
    return others[spread(len(others), wanted - len(mistakes))].tolist(), mistakes


def spread_over_classes(labels_N: np.ndarray, wanted: int) -> list[int]:
    """Test images spaced evenly through the test set once it is sorted by class."""
    order = np.argsort(labels_N, kind='stable')
    return order[spread(len(order), wanted)].tolist()


def neighbours(vectors_NU: np.ndarray, queries: Sequence[int], wanted: int) -> np.ndarray:
    """The nearest other vectors by Euclidean distance, the nearest first (Figure 4, right).

    Returns:
      (Q, wanted) of 0..N-1, fewer columns where there are fewer others.
    """
    vectors = vectors_NU - vectors_NU.mean(axis=0)  # smaller numbers cancel less
    squares_N = (vectors**2).sum(axis=1)
    found = []
    for first in range(0, len(queries), 64):
        some_Q = np.asarray(queries[first : first + 64])
        # |a - b|^2 without |a|^2, which is the same for all b.
        distance_QN = squares_N - 2 * (vectors[some_Q] @ vectors.T)
        distance_QN[np.arange(len(some_Q)), some_Q] = np.inf
        order = np.argsort(distance_QN, axis=1, kind='stable')
        found.append(order[:, : min(wanted, len(vectors) - 1)])
    return np.concatenate(found)


def frequent_confusions(counts_KK: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """(class, taken for, how often), the most frequent first."""
    wrong = confusion.mistakes(counts_KK)
    order = np.argsort(-wrong, axis=None, kind='stable')[:most]
    pairs = [divmod(int(place), len(counts_KK)) for place in order]
    return [(row, column, int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


def worst_classes(counts_KK: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """(class, mistakes, test images) by share of mistakes, the largest first; none without any."""
    images_K, right_K = counts_KK.sum(axis=1), counts_KK.diagonal()
    wrong_K = images_K - right_K
    order = np.argsort(-wrong_K / np.maximum(images_K, 1), kind='stable')[:most]
    return [(int(k), int(wrong_K[k]), int(images_K[k])) for k in order if wrong_K[k]]
