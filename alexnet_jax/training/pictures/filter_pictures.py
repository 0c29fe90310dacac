"""Pictures of the first layer's kernels (§6.1, Figure 3)."""

import numpy as np


def filter_picture(kernel_THWIO: np.ndarray, columns: int = 8, zoom: int = 3) -> np.ndarray:
    """Draws the kernels of all towers, one block per tower, side by side.

    Args:
      kernel_THWIO: the kernels of a convolution on images with three channels.
      columns: kernels in a row of a block.
      zoom: pixels for the side of each weight.

    Returns:
      (height, width, 3) uint8.
    """
    blocks = [tower_picture(kernel, columns, zoom) for kernel in kernel_THWIO]
    separator = np.full((len(blocks[0]), 3, 3), 255, np.uint8)
    return np.concatenate([part for block in blocks for part in (block, separator)], axis=1)


def tower_picture(kernel_HWIO: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """Draws the kernels of one tower on white, each scaled to its own range of values.

    Returns:
      (height, width, 3) uint8.
    """
    size, _, _, maps = kernel_HWIO.shape
    rows, gap = -(-maps // columns), 1
    step = size * zoom + gap
    picture = np.full((rows * step + gap, columns * step + gap, 3), 255, np.uint8)
    for number in range(maps):
        kernel = kernel_HWIO[..., number]
        low, high = kernel.min(), kernel.max()
        tile = np.uint8(255 * (kernel - low) / max(high - low, 1e-12))
        top, left = gap + number // columns * step, gap + number % columns * step
        picture[top : top + size * zoom, left : left + size * zoom] = tile.repeat(zoom, 0).repeat(
            zoom, 1
        )
    return picture
