"""Top-1 and top-5 error rates of predicted log probabilities, with confidence intervals (§6)."""

import math
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.ops.top_k_credit import TOP as TOP
from alexnet_jax.ops.top_k_credit import image_results

_image_results = jax.jit(image_results)


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


def top_errors(log_p_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, np.ndarray]:
    """Computes the error of each image for each of TOP: (N,) float32, see `image_results`."""
    results = _results(log_p_NK, labels_N)
    return {top: results[f'top{top}_error'] for top in TOP}


def errors(log_p_NK: np.ndarray, labels_N: np.ndarray) -> Errors:
    """Computes the errors of log probabilities.

    Args:
      log_p_NK: (N, K) float32. Where those of an image are NaN, it counts as wrong, and the loss is
        NaN.
      labels_N: (N,) int32.

    Raises:
      ValueError: a label is not one of the K classes.
    """
    means = {
        name: float(x.mean(dtype=np.float64)) for name, x in _results(log_p_NK, labels_N).items()
    }
    return Errors(len(labels_N), means['top1_error'], means['top5_error'], means['loss'])


def _results(log_p_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, np.ndarray]:
    check_labels(labels_N, log_p_NK.shape[1])
    return {name: np.asarray(x) for name, x in _image_results(log_p_NK, labels_N).items()}


def check_labels(labels_N: np.ndarray, classes: int) -> None:
    """Raises a ValueError if a label is not from 0 to `classes` - 1."""
    outside = labels_N[(labels_N < 0) | (labels_N >= classes)]
    if len(outside):
        raise ValueError(f'label {outside[0]} is not one of {classes} classes')


def interval(error: float, images: int) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of an error that was measured on so many images."""
    z = 1.959964
    shrink = 1 + z * z / images
    middle = (error + z * z / (2 * images)) / shrink
    spread = error * (1 - error) / images + (z / (2 * images)) ** 2
    half = z / shrink * math.sqrt(max(0.0, spread))
    return max(0.0, middle - half), min(1.0, middle + half)


def most_probable(log_p_NK: np.ndarray, number: int) -> np.ndarray:
    """Returns the most probable labels first, of equal ones the lower first: (N, number) int64."""
    return np.argsort(-log_p_NK, axis=1, kind='stable')[:, :number]
