"""Pictures of the first layer's kernels (§6.1, Figure 3)."""

import numpy as np


def filter_picture(kernel_THWIO: np.ndarray, columns: int = 8, zoom: int = 3) -> np.ndarray:
    """All towers' pictures of their kernels, side by side; (rows, columns, 3) uint8."""
    towers = [tower_picture(kernel, columns, zoom) for kernel in kernel_THWIO]
    apart = np.full((len(towers[0]), 3, 3), 255, np.uint8)
    return np.concatenate([part for tower in towers for part in (tower, apart)], axis=1)


def tower_picture(kernel_HWIO: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """A tower's kernels, each stretched to its own range, on white; (rows, columns, 3) uint8."""
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
