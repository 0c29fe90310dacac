"""The layers that normalization.py times: response normalization, with ReLU and pooling."""

from collections.abc import Callable, Collection

import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops.implementations import Platform, missing_for_mosaic_gpu
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization

SIZE, K, ALPHA, BETA = PAPER = (5, 2.0, 1e-4, 0.75)
POOL = (3, 2)  # window and stride, pixels
FUNCTIONS = ALONE, POOLED = ('normalization', 'ReLU, normalization, pooling')
MOSAIC = 'normalization by Mosaic GPU'  # a second kernel of the first function
COPY, RELU, TORCH = 'copy', 'ReLU + ', 'PyTorch'

Layer = Callable[[Array], Array]  # x to y


def formula(rectify: bool) -> Layer:
    """Returns our normalization in plain JAX."""
    return lambda x: response_normalization(x, *PAPER, rectify=rectify, implementation='jax')


def pallas(rectify: bool) -> Layer:
    """Returns our normalization by its kernels."""
    return lambda x: response_normalization(x, *PAPER, rectify=rectify, implementation='pallas')


def mosaic_gpu(rectify: bool) -> Layer:
    """Returns our normalization by its Mosaic GPU kernels."""
    return lambda x: response_normalization(x, *PAPER, rectify=rectify, implementation='mosaic_gpu')


def has_mosaic_gpu() -> bool:
    """Returns whether this version of JAX has Mosaic GPU kernels for the device."""
    return not missing_for_mosaic_gpu(Platform.default())


def one_kernel(rectify: bool) -> Layer:
    """Returns normalization and max-pooling by their common kernel."""
    return lambda x: normalized_pooling(x, *PAPER, *POOL, rectify=rectify, implementation='pallas')


def then_pooled(layer: Layer) -> Layer:
    """Returns the layer followed by max-pooling."""
    return lambda x: max_pooling(layer(x), *POOL)


def plain(x: Array) -> Array:
    """Computes the layer in the most direct way, whose derivative is left to JAX."""
    maps = x.shape[-1]
    padded = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(SIZE // 2, SIZE - 1 - SIZE // 2)])
    squares = sum(padded[..., i : i + maps] for i in range(SIZE))
    return x * (K + ALPHA * squares) ** -BETA


def layers(function: str, checked: Collection[str]) -> dict[str, Layer]:
    """Returns the contenders in JAX by name.

    Args:
      function: one of FUNCTIONS.
      checked: the functions whose kernels are right, and MOSAIC; the other kernels are left out.
    """
    ours = {'formula': formula}
    ours |= {'Pallas': pallas} if ALONE in checked else {}
    ours |= {'Mosaic GPU': mosaic_gpu} if MOSAIC in checked else {}
    if function == POOLED:
        common = {'one kernel': one_kernel(rectify=True)} if POOLED in checked else {}
        return {name: then_pooled(make(rectify=True)) for name, make in ours.items()} | common
    alone = {name: make(rectify=False) for name, make in ours.items()}
    rectifying = {RELU + name: make(rectify=True) for name, make in ours.items()}
    return alone | {'automatic derivative': plain} | rectifying
