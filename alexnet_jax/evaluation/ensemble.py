"""Ensembles: the mean of several nets' softmax outputs (§6), and weights for it (2012 code).

The outputs are given as logarithms, so that probabilities that a float would round to 0 keep their
order.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from alexnet_jax.evaluation import error_rates

SEARCH_STEPS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # by which weights are changed


def mean(log_p_MNK: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Computes the logarithm of the mean of several nets' softmax outputs, (N, K) float32.

    Args:
      log_p_MNK: (N, K) float32 for each net, the logarithm of its softmax.
      weights: a weight for each net, at least 0, with the sum 1; None for equal weights.
    """
    return _weighted(log_p_MNK)(weights or [1 / len(log_p_MNK)] * len(log_p_MNK))


def _weighted(log_p_MNK: Sequence[np.ndarray]) -> Callable[[Sequence[float]], np.ndarray]:
    """Returns `mean` for these nets, as a function of the weights that computes no exponential."""
    if len(log_p_MNK) == 1:
        return lambda _: log_p_MNK[0]
    largest_NK = functools.reduce(np.maximum, log_p_MNK).astype(np.float64)
    largest_NK[np.isneginf(largest_NK)] = 0.0
    ratios_MNK = [np.exp(log_p_NK - largest_NK) for log_p_NK in log_p_MNK]

    def of_weights(weights: Sequence[float]) -> np.ndarray:
        total_NK = sum(w * p for w, p in zip(weights, ratios_MNK, strict=True))
        with np.errstate(divide='ignore'):  # log(0) is right: -inf
            return (largest_NK + np.log(total_NK)).astype(np.float32)

    return of_weights


def halves(labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits images into two halves with equal numbers of every class, give or take one.

    Args:
      labels_N: (N,) int32.

    Returns:
      The indices of every second image, counted class after class, and those of the others.
    """
    by_class = np.argsort(labels_N, kind='stable')
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def tune(log_p_MNK: Sequence[np.ndarray], labels_N: np.ndarray) -> list[float]:
    """Finds weights whose mean has the lowest top-5 error on these images.

    The search goes coordinate by coordinate, like that of the 2012 code (avg-valid.py): one weight
    is raised or lowered by a step, or set to 0, and all are scaled to the sum 1, as long as this
    improves the mean; then the step is halved. The search starts from equal weights, or from a
    single net if that is better. Ties in the top-5 error are broken by the top-1 error, then by the
    loss.

    Args:
      log_p_MNK: (N, K) float32 for each net, the logarithm of its softmax.
      labels_N: (N,) int32.

    Returns:
      A weight for each net, at least 0, with the sum 1.
    """
    mean_of_weights = _weighted(log_p_MNK)

    def cost(weights: list[float]) -> tuple[float, float, float]:
        errors = error_rates.errors(mean_of_weights(weights), labels_N)
        return errors.top5, errors.top1, errors.loss

    single_nets = np.eye(len(log_p_MNK)).tolist()
    best = min([[1 / len(log_p_MNK)] * len(log_p_MNK), *single_nets], key=cost)
    lowest = cost(best)
    for step in SEARCH_STEPS:
        improved = True
        while improved:
            improved = False
            for net in range(len(best)):
                for weights in _neighbours(best, net, step):
                    if (candidate := cost(weights)) < lowest:
                        best, lowest, improved = weights, candidate, True
    return best


def _neighbours(weights: list[float], net: int, step: float) -> Iterator[list[float]]:
    """Yields these weights with the weight of one net raised, lowered, or set to 0."""
    for own in (weights[net] + step, max(0.0, weights[net] - step), 0.0):
        changed = weights[:net] + [own] + weights[net + 1 :]
        if own != weights[net] and sum(changed) > 0:
            yield [x / sum(changed) for x in changed]
