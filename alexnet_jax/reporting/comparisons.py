"""The parts of a report that compare runs: Figure 1 of the paper, and the ablations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.config import schema
from alexnet_jax.reporting import history
from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.page import Prose, Section, code, figure, paragraph, table
from alexnet_jax.reporting.plots import Curve, line_plot
from alexnet_jax.runtime.user_errors import UserError, first_line
from alexnet_jax.training.workdir import Workdir

LEVEL = 0.25  # the training error rate of Figure 1


def figure1(relu: Path, tanh: Path) -> Section:
    """Training error against epochs of two runs, as in Figure 1.

    Raises:
      UserError: a folder is no run's, or nothing has been logged in it.
    """
    histories = {'ReLU': _history(relu), 'tanh': _history(tanh)}
    curves = []
    for (name, run), style in zip(histories.items(), ('solid', 'dashed'), strict=True):
        x, y = history.thinned(run.curve('train/top1_error'))
        curves.append(Curve(name, (x, 100 * y), style))
    plot = line_plot(curves, 'epochs', 'training error (%)', level=(100 * LEVEL, '25 %'))
    caption = (
        'Training error rate (top-1, means of the log) with ReLUs and with tanh. In the paper, on '
        'CIFAR-10 with a four-layer net, ReLUs reach 25 % six times faster.'
    )
    body = joined(
        figure(plot, caption, class_='narrow'),
        paragraph(_reached(histories)),
        paragraph(_difference(relu, tanh)),
    )
    return Section('relu', 'ReLU and tanh (Figure 1)', body)


def _history(workdir: Path) -> history.History:
    run = history.read(workdir)
    if not len(run.curve('train/top1_error')[0]):
        raise UserError(f'{workdir} has no metrics.jsonl with a training error: Figure 1 needs one')
    return run


def _reached(histories: Mapping[str, history.History]) -> str:
    """When each run reached the level, and how many times longer the second took."""
    name, times, ends = 'train/top1_error', {}, {}
    for kind, run in histories.items():
        times[kind] = run.epochs_to_reach(name, LEVEL)
        ends[kind] = run.curve(name)[0].max()
    said = [
        f'{kind}: not reached in {ends[kind]:.2f} epochs'
        if at is None
        else f'{kind}: {at:.2f} epochs'
        for kind, at in times.items()
    ]
    line = f'To a training error of 25 %: {"; ".join(said)}.'
    relu, tanh = times['ReLU'], times['tanh']
    if relu is None:
        return line
    if tanh is None:
        return f'{line} tanh takes more than {ends["tanh"] / relu:.1f} times as many.'
    return f'{line} tanh takes {tanh / relu:.1f} times as many.'


def _difference(relu: Path, tanh: Path) -> Html:
    """The names of the settings in which the runs differ."""
    one, other = (
        schema.flatten(Workdir(folder).read_record()['config']) for folder in (relu, tanh)
    )
    names = sorted(name for name in one | other if one.get(name) != other.get(name))
    if not names:
        return joined('The two runs have the same settings.')
    return joined('The two runs differ in ', code(', '.join(names)), '.')


def ablations(file: Path) -> Section:
    """The table of what each claim of the paper is worth here.

    Args:
      file: an ablations.json: 'config', 'seeds', 'command' and 'rows', of which the first is the
        net that the others are a change of. Errors and differences are fractions.

    Raises:
      UserError: it cannot be read, or is something else.
    """
    try:
        return _ablations(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file} is no table of ablations: {type(error).__name__}: {first_line(error)}'
        ) from error


def _ablations(results: Mapping[str, Any]) -> Section:
    header = ('without', 'error (%)', 'difference', Prose('paper'), Prose('2012 log'), 'minutes')
    rows = [_ablation(row) for row in results['rows']]
    seeds = ', '.join(map(str, results['seeds']))
    caption = joined(
        f'Top-1 test error, mean over the seeds {seeds}, and below it each one; the difference '
        'from the first row in points with its 95 % interval, within noise where that contains 0. '
        'Made by ',
        code(results['command']),
        f' on {results["config"]}.',
    )
    return Section('ablations', 'Ablations', table(header, rows, caption))


def _ablation(row: Mapping[str, Any]) -> tuple[object, ...]:
    each = ' '.join(f'{100 * error:.2f}' for error in row['errors'])
    name = 'nothing' if row['difference'] is None else row['name']
    return (
        joined(name, tag('div', row['claim'], class_='claim')),
        joined(f'{100 * row["mean"]:.2f}', tag('div', each, class_='faint')),
        _points(row['difference'], row['low'], row['high']),
        Prose(row['paper'] or ''),
        Prose(row['log'] or ''),
        f'{row["minutes"]:.1f}',
    )


def _points(difference: float | None, low: float | None, high: float | None) -> Html | str:
    """A difference in percentage points."""
    if difference is None:
        return ''
    said = f'{100 * difference:+.2f}'
    if low is None or high is None:
        return said
    bounds = tag('div', f'{100 * low:+.2f} to {100 * high:+.2f}', class_='faint')
    noise = tag('div', 'within noise', class_='faint') if low <= 0 <= high else None
    return joined(said, bounds, noise)
