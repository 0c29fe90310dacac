"""Several nets as one: the mean of their softmax outputs (§6), and weights for it (2012)."""

from collections.abc import Iterator, Sequence

import numpy as np

from alexnet_jax.evaluation import error_rates

STEPS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of the search for weights


def mean(p_MNK: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean over nets of their softmax outputs, (N, K) float32.

    Args:
      p_MNK: for each net, (N, K) float32.
      weights: of the nets, at least 0 and 1 in all; None weighs them equally.
    """
    total = np.zeros(p_MNK[0].shape, np.float64)
    for p_NK, weight in zip(p_MNK, weights or [1 / len(p_MNK)] * len(p_MNK), strict=True):
        total += weight * p_NK.astype(np.float64)
    return total.astype(np.float32)


def halves(labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits images into two halves, both with every class in equal number, give or take one.

    Returns:
      Indices: every second image of the classes, one class after the other, and the rest.
    """
    by_class = np.argsort(labels_N, kind='stable')
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def tune(p_MNK: Sequence[np.ndarray], labels_N: np.ndarray) -> list[float]:
    """Weights with which the mean has the lowest top-5 error on these images.

    A search coordinate by coordinate, as that of the 2012 code (avg-valid.py): while it helps, one
    weight is raised or lowered by a step, or made 0, and all are scaled to sum to 1; then the step
    is halved. It begins with equal weights, or with one net alone if that is better. Of equal top-5
    errors the lower top-1 error wins, then the lower loss.

    Returns:
      A weight for each net, at least 0 and 1 in all.
    """

    def judged(weights: list[float]) -> tuple[float, float, float]:
        found = error_rates.errors(mean(p_MNK, weights), labels_N)
        return found.top5, found.top1, found.loss

    alone = np.eye(len(p_MNK)).tolist()
    best = min([[1 / len(p_MNK)] * len(p_MNK), *alone], key=judged)
    lowest = judged(best)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for net in range(len(best)):
                for weights in _neighbours(best, net, step):
                    if (found := judged(weights)) < lowest:
                        best, lowest, improved = weights, found, True
    return best


def _neighbours(weights: list[float], net: int, step: float) -> Iterator[list[float]]:
    """These weights with that of one net raised, lowered, or 0."""
    for own in (weights[net] + step, max(0.0, weights[net] - step), 0.0):
        changed = weights[:net] + [own] + weights[net + 1 :]
        if own != weights[net] and sum(changed) > 0:
            yield [x / sum(changed) for x in changed]
