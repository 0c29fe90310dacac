"""Checkpoints of a run, verified whenever they are written and read.

A checkpoint holds the state (parameters, velocity and step, as arrays), the position (JSON: the
memory of the learning-rate schedule, and the running means of the log), and the digests of both.
The order of the data and all random numbers follow from the seed and the step, so nothing else is
needed for a resumed run to end with the same bits as an uninterrupted one. A run may be resumed on
another mesh.
"""

from alexnet_jax.training.checkpoint.checkpoints import Checkpoints
from alexnet_jax.training.checkpoint.position import Position

__all__ = ['Checkpoints', 'Position']
