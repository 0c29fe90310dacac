"""The rules that the kernel of momentum.py applies; this module can be imported without Triton."""

from typing import NamedTuple

KERNEL_DIMENSIONS = 5  # of the kernels of a convolution: (T, H, W, I, O)


class Rule(NamedTuple):
    """The update of one array w with the gradient g and the velocity v.

    v <- momentum v - rate (g + decay w);  w <- w + v, where rate is `factor` times the learning
    rate.

    Attributes:
      decay: the weight decay.
      rate: the index of the learning rate in the array of hyperparameters.
      factor: the factor of that learning rate.
      may_freeze: whether w stays as it is, whatever its velocity, where the learning rate is 0.
    """

    decay: float
    rate: int
    factor: float
    may_freeze: bool
