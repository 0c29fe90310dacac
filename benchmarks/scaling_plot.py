"""Plots the time of a training by scaling.py over the number of GPUs, as an SVG file."""

from collections.abc import Mapping

import numpy as np
from scaling_model import TOWERS_AND_TRICK, Scheme

from alexnet_jax.reporting.plots import WIDTH, Curve, line_plot
from alexnet_jax.reporting.style import STYLE

BATCHES = (1024, 8192)  # of which there are curves, in this order of line styles
HEIGHT, MARGIN = 380, 16  # the margin is for the last number of the axis


def draw(minutes: Mapping[tuple[Scheme, int, int], float], epochs: float) -> str:
    """Draws a curve for each scheme and batch.

    The curves of the weird trick with towers are left out: they lie on those without.

    Args:
      minutes: of a training, by scheme, number of GPUs and batch.
      epochs: of the training.
    """
    names = list({scheme.name: None for scheme, *_ in minutes if scheme != TOWERS_AND_TRICK})
    curves = []
    for style, batch in zip(('solid', 'dashed'), BATCHES, strict=True):
        for colour, name in enumerate(names):
            points = {
                gpus: y
                for (scheme, gpus, size), y in minutes.items()
                if (scheme.name, size) == (name, batch)
            }
            if points:
                arrays = np.array([*points], float), np.array([*points.values()])
                curves.append(Curve(f'{name}, batch {batch:,}', arrays, style, colour))
    y_label = f'minutes of {epochs:g} epochs'
    svg = line_plot(curves, 'GPUs', y_label, log=True, log_x=True, height=HEIGHT)
    head, rest = svg.split('>', 1)
    head = head.replace(f'0 0 {WIDTH}', f'0 0 {WIDTH + MARGIN}')
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}\n'
