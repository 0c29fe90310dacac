"""Top-1 and top-5 error rates of predicted probabilities, with confidence intervals (§6)."""

import math
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.ops.top_k_credit import credit

TOP = (1, 5)


_credit = jax.jit(credit, static_argnums=2)


class Errors(NamedTuple):
    """Error rates on a number of images.

    Attributes:
      images: the number of images.
      top1: the top-1 error, a fraction.
      top5: the top-5 error, a fraction.
      loss: the mean cross entropy in nats.
    """

    images: int
    top1: float
    top5: float
    loss: float


def top_credits(p_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, np.ndarray]:
    """Computes the credit of each image for each of TOP: (N,) float32, see `credit`."""
    return {top: np.asarray(_credit(p_NK, labels_N, top)) for top in TOP}


def errors(p_NK: np.ndarray, labels_N: np.ndarray) -> Errors:
    """Computes the errors of probabilities.

    Args:
      p_NK: (N, K) float32. In the loss a probability of 0 counts as the smallest normal number.
      labels_N: (N,) int32.
    """
    credits_N = top_credits(p_NK, labels_N)
    own = np.take_along_axis(p_NK, labels_N[:, None], axis=1)
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64)
    top1, top5 = (1 - float(credits_N[top].mean(dtype=np.float64)) for top in TOP)
    return Errors(len(labels_N), top1, top5, float(loss))


def interval(error: float, images: int) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of an error that was measured on so many images."""
    z = 1.959964
    shrink = 1 + z * z / images
    middle = (error + z * z / (2 * images)) / shrink
    spread = error * (1 - error) / images + (z / (2 * images)) ** 2
    half = z / shrink * math.sqrt(max(0.0, spread))
    return max(0.0, middle - half), min(1.0, middle + half)
