"""The curve of a range test, and the learning rate that follows from it.

The rule: the suggestion is a quarter of the highest stable rate. That is the last one at which the
smoothed loss is not clearly above its lowest value; 'clearly' is a tenth of the loss of a net that
guesses by the frequencies of the classes, or four standard errors of the smoothed loss, if that is
more.

The other known rule, the rate at which the loss falls fastest, needs a net that learns from the
first step on. AlexNet does not: its loss stays constant at first, and a net that has been trained
already learns most at the lowest rates, because they average out the noise of the steps before.
On the digits (400 steps, 2026-11-26) the highest stable rate was 0.033 from initial weights and
0.019 after 115 steps of training at 0.01. The loss fell fastest at 0.006 from initial weights, and
at 0.0002 after 115 steps (that one with the velocity of the checkpoint).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError

RATES = 1e-4, 1.0  # the first and the last one, where no flag gives others
SAFETY = 4.0  # the suggestion is the highest stable rate divided by this
_RISE = 0.1  # of the loss of guessing: a clear rise or fall
_STANDARD_ERRORS = 4.0  # the least rise that is clear, in standard errors of the smoothed loss
_HALF_WINDOW = 0.1  # decades on each side that the smoothed loss is the mean of
_LEAST_HALF_WINDOW = 3  # steps
_FROM_EDGE = 2.0  # the highest stable rate must be this factor above the lowest rate


@dataclasses.dataclass(frozen=True)
class Range:
    """The learning rates of a test, which grow by the same factor at each step.

    Attributes:
      low: the first rate.
      high: the last rate.
      steps: the number of steps, at least 2.
    """

    low: float
    high: float
    steps: int

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))

    @property
    def half_window(self) -> int:
        """Steps on each side of a step over which the loss is smoothed."""
        per_decade = (self.steps - 1) / math.log10(self.high / self.low)
        return max(_LEAST_HALF_WINDOW, round(_HALF_WINDOW * per_decade))


def parse(text: Sequence[str] | None, number: int) -> Range:
    """Returns the learning rates that --range=LOW,HIGH and --range_steps give.

    Raises:
      UserError: they are not two positive numbers of which the first is the lower one.
    """
    if text is None:
        return Range(*RATES, number)
    try:
        low, high = map(float, text)
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low < high < 1e30 or low < 1e-30:
        raise UserError(
            f'--range={printable(",".join(text))}: give two positive learning rates, the lower one '
            f'first, such as --range={RATES[0]:g},{RATES[1]:g}'
        )
    return Range(low, high, number)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The losses of the steps of a test, up to the last that is finite.

    Attributes:
      range: the rates.
      losses: (n,) float64, the training loss before each step, in nats.
      chance: the loss of a net that guesses by the frequencies of the classes, in nats.
      ended_with: the loss that was not finite and ended the test; None if all were finite.
    """

    range: Range
    losses: np.ndarray
    chance: float
    ended_with: float | None = None

    @property
    def rates(self) -> np.ndarray:
        """The learning rates, (n,) float64."""
        return np.array([self.range.rate(step) for step in range(len(self.losses))])

    @property
    def smoothed(self) -> np.ndarray:
        """The means of the losses over a window around each step, (n,) float64."""
        half, sums = self.range.half_window, np.cumsum(np.append(0.0, self.losses))
        steps = np.arange(len(self.losses))
        first, end = np.maximum(steps - half, 0), np.minimum(steps + half + 1, len(steps))
        return (sums[end] - sums[first]) / (end - first)

    @property
    def tolerance(self) -> float:
        """The rise of the smoothed loss that counts as clear, in nats."""
        half = self.range.half_window
        early = self.losses[: max(len(self.losses) // 4, 2 * half + 1)]
        deviation = float(np.std(np.diff(early)) / math.sqrt(2)) if len(early) > 2 else 0.0
        standard_error = deviation / math.sqrt(2 * half + 1)
        return max(_RISE * self.chance, _STANDARD_ERRORS * standard_error)

    def unstable_step(self) -> int | None:
        """Returns the step after that of the highest stable rate; None where it is the last one."""
        if not len(self.losses):
            return None if self.ended_with is None else 0
        smoothed = self.smoothed
        stable = np.flatnonzero(smoothed <= smoothed.min() + self.tolerance)
        step = int(stable[-1]) + 1
        return None if step == len(smoothed) and self.ended_with is None else step


@dataclasses.dataclass(frozen=True)
class Result:
    """The learning rates that follow from a curve.

    Attributes:
      stable: the highest stable rate; None where no rate of the test was too high.
      lowest: the lowest smoothed loss at stable rates, in nats; NaN without any step.
      lowest_at: the rate of that loss.
      suggestion: the suggested rate, with two digits; None if the curve gives none.
      reason: why there is no suggestion, and what to do; '' if there is one.
    """

    stable: float | None
    lowest: float
    lowest_at: float
    suggestion: float | None
    reason: str = ''


def evaluate(curve: Curve, stopped: bool = False) -> Result:
    """Judges a curve by the rule of this module.

    Args:
      curve: the curve.
      stopped: whether a signal has ended the test early.
    """
    unstable = curve.unstable_step()
    end = len(curve.losses) if unstable is None else unstable
    lowest, lowest_at, stable = math.nan, math.nan, None
    if end:
        step = int(np.argmin(curve.smoothed[:end]))
        lowest, lowest_at = float(curve.smoothed[step]), curve.range.rate(step)
    if unstable is not None:
        stable = curve.range.rate(max(unstable - 1, 0))
    reason = _reason(curve, stable, lowest, stopped)
    suggestion = None if reason or stable is None else float(f'{stable / SAFETY:.2g}')
    return Result(stable, lowest, lowest_at, suggestion, reason)


def _reason(curve: Curve, stable: float | None, lowest: float, stopped: bool) -> str:
    """Says why a curve gives no suggestion, and what to do; '' if it gives one."""
    low, high, steps = curve.range.low, curve.range.high, curve.range.steps
    if stable is not None and stable < _FROM_EDGE * low:
        return (
            'the loss rose at the lowest rates already: repeat the test with lower ones, '
            f'--range={low / 1000:g},{low * 10:g}'
        )
    if not lowest <= (1 - _RISE) * curve.chance:
        if stopped:
            return 'the test was stopped before the loss fell: let it run to its end'
        return (
            f'the loss never fell clearly below {curve.chance:.2f}, that of guessing. With initial '
            'weights as small as those of the paper, it stays there for hundreds of steps or more: '
            f'repeat the test with --range_steps={4 * steps}, or train until the loss falls, and '
            'repeat it with the same --workdir'
        )
    if stable is None:
        if stopped:
            return 'the test was stopped before the loss rose: let it run to its end'
        return (
            f'the loss rose at no rate up to {high:g}, the highest of the test: repeat it with '
            f'higher ones, --range={low:g},{100 * high:g}'
        )
    return ''


def entropy(counts: Sequence[int] | np.ndarray) -> float:
    """Returns the entropy of a distribution in nats: the loss of guessing by the frequencies.

    Args:
      counts: how often each class occurred.
    """
    p = np.asarray(counts, np.float64)
    p = p[p > 0] / max(p.sum(), 1.0)
    return float(-(p * np.log(p)).sum())
