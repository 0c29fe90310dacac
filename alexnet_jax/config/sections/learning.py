"""The settings of the update rule and of the learning rate (§5)."""

import dataclasses
from typing import Annotated

from alexnet_jax.config.ranges import Above, AtLeast, HalfOpen, OneOf

RULES = ('sgd', 'lars')
SCHEDULES = ('plateau', 'steps', 'fixed', 'polynomial')

Batch = AtLeast(1, 65_536)
_Period = Above(0, 1_000_000)  # epochs


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule and how long it is applied (§5)."""

    batch_size: Annotated[int, Batch, 'Images per step, on all devices together (§5).']
    dense_updates: Annotated[
        int, AtLeast(1, 1024), 'Updates of fully-connected layers per step, one per sub-batch.'
    ]
    epochs: Annotated[float, _Period, 'Passes over the training set (§5).']
    rule: Annotated[
        str,
        OneOf(RULES),
        'Update rule: sgd, with momentum, is that of the paper; lars also scales the learning rate '
        'of each array of weights or biases by its norm, divided by the norm of its gradient and '
        'decay (You, Gitman and Ginsburg, 2017).',
    ]
    trust_coefficient: Annotated[
        float, Above(0), 'Factor of the learning rate of lars, beside those norms.'
    ]
    momentum: Annotated[float, HalfOpen(0, 1), 'Fraction of the last update that is kept (§5).']
    weight_decay: Annotated[float, AtLeast(0), 'Weight decay of the weights (§5).']
    bias_weight_decay: Annotated[float, AtLeast(0), 'Weight decay of the biases.']
    bias_rate_factor: Annotated[
        float, AtLeast(0), 'Learning rate of the biases, as a multiple of that of the weights.'
    ]
    bias_rate_falls: Annotated[
        bool,
        "The biases' learning rate falls with the weights'; if false, it keeps its initial value.",
    ]


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Divides the learning rate when the test error stops improving (§5)."""

    divide_by: Annotated[float, Above(0), 'Divisor of the learning rate at each drop (§5).']
    drops: Annotated[int, AtLeast(0, 100), 'Drops at most (§5).']
    patience: Annotated[
        int, AtLeast(1, 1_000_000), 'Evaluations without a lower top-1 error before a drop.'
    ]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Divides the learning rate at stated epochs."""

    divide_by: Annotated[float, Above(0), 'Divisor of the learning rate at each of the epochs.']
    epochs: Annotated[
        tuple[float, ...], AtLeast(0, 1_000_000), 'Epochs at which the learning rate is divided.'
    ]


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The later schedule of the 2012 code, 'dexp' (lr.cu:132)."""

    levels: Annotated[int, AtLeast(1, 1000), 'Levels of the learning rate, equally long.']
    divide_by: Annotated[float, Above(0), 'Ratio of the first level to the last.']
    bias_levels: Annotated[
        int,
        AtLeast(0, 1000),
        "Levels of the biases' learning rate, equally long; 0: as optimizer.bias_rate_falls says.",
    ]
    bias_divide_by: Annotated[
        float, Above(0), "Ratio of the first level of the biases' learning rate to the last."
    ]


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """Lowers the learning rate to 0 at the end: initial * (1 - epoch / epochs) ** power."""

    power: Annotated[float, Above(0), 'Power of the fraction of the epochs that are left.']


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """Raises the learning rate in equal steps to its initial value; then the schedule applies."""

    epochs: Annotated[float, AtLeast(0, 1_000_000), 'Epochs that this takes; 0: none.']
    divide_by: Annotated[float, Above(0), 'Divisor of the initial learning rate at the first step.']


@dataclasses.dataclass(frozen=True)
class FirstLayer:
    """Changes of the learning rate of conv1 toward the end, as in the 2012 code."""

    lower_at: Annotated[
        float,
        "Epoch at which the learning rate of conv1's weights is divided, in addition to the "
        'schedule; below 0: never.',
    ]
    divide_by: Annotated[float, Above(0), 'Divisor of that learning rate.']
    freeze_at: Annotated[
        float,
        'Epoch at which the weights and biases of conv1 are frozen; below 0: never.',
    ]


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """The learning rate, epsilon of the update rule, and how it falls (§5)."""

    initial: Annotated[float, Above(0), 'Learning rate of the weights at the start (§5).']
    schedule: Annotated[
        str, OneOf(SCHEDULES), 'How it falls; the section of that name has the details (§5).'
    ]
    plateau: Plateau
    steps: Steps
    fixed: Fixed
    polynomial: Polynomial
    warm_up: WarmUp
    conv1: FirstLayer
