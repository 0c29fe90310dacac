"""Figure 1 of the paper: the training errors of a run with ReLUs and of one with tanh (§3.1)."""

from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.config import schema
from alexnet_jax.reporting import history
from alexnet_jax.reporting.markup import Html, joined
from alexnet_jax.reporting.page import Section, code, figure, paragraph
from alexnet_jax.reporting.plots import Curve, error_plot
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir

LEVEL = 0.25  # the training error rate of Figure 1


def figure1(relu: Path, tanh: Path) -> Section:
    """Compares the training errors of two runs over epochs, as in Figure 1.

    Args:
      relu: the workdir of a run with ReLUs.
      tanh: the workdir of a run with tanh.

    Raises:
      UserError: a folder is not a workdir, or its run has logged nothing.
    """
    histories = {'ReLU': _history(relu), 'tanh': _history(tanh)}
    curves = []
    for (name, run), style in zip(histories.items(), ('solid', 'dashed'), strict=True):
        x, y = history.downsample(run.curve('train/top1_error'))
        curves.append(Curve(name, (x, 100 * y), style))
    plot, note = error_plot(curves, 'training error (%)', level=(100 * LEVEL, '25 %'))
    caption = (
        'Top-1 training error with ReLUs and with tanh, as logged. In the paper, a four-layer net '
        f'with ReLUs reaches 25 % on CIFAR-10 six times faster than one with tanh.{note}'
    )
    body = joined(
        figure(plot, caption, class_='narrow'),
        paragraph(_times_to_level(histories)),
        paragraph(_changed_settings(relu, tanh)),
    )
    return Section('relu', 'ReLU and tanh (Figure 1)', body)


def _history(workdir: Path) -> history.History:
    run = history.read(workdir)
    if not len(run.curve('train/top1_error')[0]):
        raise UserError(
            f'{workdir} has no metrics.jsonl with a training error, which Figure 1 needs'
        )
    return run


def _times_to_level(histories: Mapping[str, history.History]) -> str:
    """Says when each run reached the level, and how many times longer one took than the other.

    A run that has not reached it is compared only if it was trained for as long as the other one.
    """
    name, times, ends = 'train/top1_error', {}, {}
    for kind, run in histories.items():
        times[kind] = run.epochs_to_reach(name, LEVEL)
        ends[kind] = run.curve(name)[0].max()
    durations = [
        f'{kind}: not reached in {ends[kind]:.2f} epochs'
        if epochs is None
        else f'{kind}: {epochs:.2f} epochs'
        for kind, epochs in times.items()
    ]
    line = f'Time to a training error of 25 %: {"; ".join(durations)}.'
    relu, tanh = times['ReLU'], times['tanh']
    if relu is None:
        return line
    if tanh is not None:
        slower, factor = ('tanh', tanh / relu) if tanh >= relu else ('ReLUs', relu / tanh)
        return f'{line} The net with {slower} takes {factor:.1f} times as many epochs.'
    if ends['tanh'] < ends['ReLU'] or ends['tanh'] <= relu:
        return line
    times_longer = f'{ends["tanh"] / relu:.1f}'
    return f'{line} The net with tanh takes more than {times_longer} times as many epochs.'


def _changed_settings(relu: Path, tanh: Path) -> Html:
    """Names the settings in which the runs differ."""
    settings = [schema.flatten(Workdir(folder).read_record()['config']) for folder in (relu, tanh)]
    names = sorted(schema.differing_names(settings))
    if not names:
        return joined('The two runs have the same settings.')
    return joined('The two runs differ in ', code(', '.join(names)), '.')
