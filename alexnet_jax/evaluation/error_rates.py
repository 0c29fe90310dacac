"""Top-1 and top-5 error of probabilities, with intervals (§6)."""

import math
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.ops.top_k_credit import credit

TOP = (1, 5)


_credit = jax.jit(credit, static_argnums=2)


class Errors(NamedTuple):
    """What is wrong of a number of images, as fractions; `loss` in nats."""

    images: int
    top1: float
    top5: float
    loss: float


def credits_of(p_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, np.ndarray]:
    """For each of TOP, (N,) float32: see `credit`."""
    return {top: np.asarray(_credit(p_NK, labels_N, top)) for top in TOP}


def errors(p_NK: np.ndarray, labels_N: np.ndarray) -> Errors:
    """Of probabilities, (N, K) float32. One that is 0 counts as the least there is."""
    right = credits_of(p_NK, labels_N)
    own = np.take_along_axis(p_NK, labels_N[:, None], axis=1)
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64)
    top1, top5 = (1 - float(right[top].mean(dtype=np.float64)) for top in TOP)
    return Errors(len(labels_N), top1, top5, float(loss))


def interval(error: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error that was measured on so many images."""
    z = 1.959964
    shrink = 1 + z * z / images
    middle = (error + z * z / (2 * images)) / shrink
    spread = error * (1 - error) / images + (z / (2 * images)) ** 2
    half = z / shrink * math.sqrt(max(0.0, spread))
    return max(0.0, middle - half), min(1.0, middle + half)
