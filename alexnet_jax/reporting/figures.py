"""Pictures as PNG, and the content of the paper's figures 3 and 4 for a trained net (§6.1).

Letters: N test images, K classes, Q queries, U units; H, W, I, O as in model/layers.py.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from alexnet_jax.evaluation import confusion


def png(picture: np.ndarray) -> str:
    """Encodes a (rows, columns, 3) uint8 picture as a PNG in a data URL, for an <img>."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def thumbnail(picture: np.ndarray, across: int = 160) -> np.ndarray:
    """Scales a picture down to at most `across` pixels in width and height."""
    image = Image.fromarray(picture)
    image.thumbnail((across, across), Image.Resampling.LANCZOS)
    return np.asarray(image)


def colourfulness(kernel_HWIO: np.ndarray) -> float:
    """Measures how colourful the filters of a layer are: the mean over filters, from 0 to 1.

    For one filter it is the fraction of its squared weights that is lost when red, green and blue
    are replaced by their mean at every pixel. A grey filter has 0, one whose colours cancel (red
    against green) 1, one that responds to one colour only 2/3, as Gaussian weights have on
    average. A filter of zeros has 0.
    """
    kernel = kernel_HWIO.astype(np.float64)
    all_O = (kernel**2).sum(axis=(0, 1, 2))
    grey_O = (kernel.mean(axis=2) ** 2).sum(axis=(0, 1)) * kernel.shape[2]
    return float(np.mean(1 - np.divide(grey_O, all_O, out=np.ones_like(all_O), where=all_O > 0)))


def evenly_spaced(total: int, count: int) -> list[int]:
    """Returns at most `count` of 0..total-1, evenly spaced: the middles of equal parts."""
    count = min(total, count)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def examples(log_p_NK: np.ndarray, labels_N: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Chooses test images to show (Figure 4, left).

    Args:
      log_p_NK: (N, K) log probabilities.
      labels_N: (N,) integers.
      count: the number of images, fewer where the test set is smaller.

    Returns:
      Images of all classes in turn, without the second list; and the most confident mistakes, up to
      half of `count`, the most confident first, and those with NaN last.
    """
    guess_N, confidence_N = confusion.answers(log_p_NK), log_p_NK.max(axis=1)
    order = np.argsort(-confidence_N, kind='stable')
    mistakes = order[guess_N[order] != labels_N[order]][: count // 2].tolist()
    others = np.setdiff1d(np.arange(len(labels_N)), mistakes)
    chosen = over_classes(labels_N[others], count - len(mistakes))
    return others[chosen].tolist(), mistakes


def over_classes(labels_N: np.ndarray, count: int) -> list[int]:
    """Chooses test images from as many classes as possible, the same number of each where possible.

    Args:
      labels_N: (N,) integers.
      count: the number of images, fewer where the test set is smaller.

    Returns:
      Images in turns: one of each class in the order of the classes, then a second one of each, and
      so on. Where there are more classes than images, the classes are evenly spaced. Those of a
      class are evenly spaced among its images.
    """
    count = min(count, len(labels_N))
    labels, sizes = np.unique(labels_N, return_counts=True)
    if count < len(labels):
        chosen = evenly_spaced(len(labels), count)
        labels, sizes = labels[chosen], sizes[chosen]
    counts = np.zeros(len(labels), int)
    while counts.sum() < count:  # each turn ends within the first classes that have images left
        left = np.flatnonzero(counts < sizes)
        counts[left[: count - counts.sum()]] += 1
    of_class = [np.flatnonzero(labels_N == label) for label in labels]
    chosen_of_class = [
        images[evenly_spaced(len(images), number)]
        for images, number in zip(of_class, counts, strict=True)
    ]
    return [
        int(images[turn])
        for turn in range(counts.max(initial=0))
        for images in chosen_of_class
        if turn < len(images)
    ]


def neighbours(vectors_NU: np.ndarray, queries: Sequence[int], count: int) -> np.ndarray:
    """Finds the nearest other vectors by Euclidean distance (Figure 4, right).

    Args:
      vectors_NU: (N, U) floats.
      queries: Q of 0..N-1.
      count: the number of neighbours of each query.

    Returns:
      (Q, count) of 0..N-1, the nearest first; fewer columns where there are fewer others.
    """
    vectors = vectors_NU - vectors_NU.mean(axis=0)  # smaller numbers cancel less
    squares_N = (vectors**2).sum(axis=1)
    nearest = []
    for first in range(0, len(queries), 64):
        some_Q = np.asarray(queries[first : first + 64])
        # |a - b|^2 without |a|^2, which is the same for all b.
        distance_QN = squares_N - 2 * (vectors[some_Q] @ vectors.T)
        distance_QN[np.arange(len(some_Q)), some_Q] = np.inf
        order = np.argsort(distance_QN, axis=1, kind='stable')
        nearest.append(order[:, : min(count, len(vectors) - 1)])
    return np.concatenate(nearest)


def frequent_confusions(counts_KK: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """Returns (class, predicted class, number of images), the most frequent first."""
    wrong = confusion.mistakes(counts_KK)
    order = np.argsort(-wrong, axis=None, kind='stable')[:most]
    pairs = [divmod(int(position), counts_KK.shape[1]) for position in order]
    return [(row, column, int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


def worst_classes(counts_KK: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """Returns (class, mistakes, test images) of classes with mistakes, the highest error first."""
    images_K, right_K = counts_KK.sum(axis=1), counts_KK.diagonal()
    wrong_K = images_K - right_K
    order = np.argsort(-wrong_K / np.maximum(images_K, 1), kind='stable')[:most]
    return [(int(k), int(wrong_K[k]), int(images_K[k])) for k in order if wrong_K[k]]
