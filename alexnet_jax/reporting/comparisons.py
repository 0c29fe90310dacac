"""The sections of a report that compare runs: Figure 1 of the paper, and the ablations."""

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
    plot = line_plot(curves, 'epochs', 'training error (%)', level=(100 * LEVEL, '25 %'))
    caption = (
        'Top-1 training error with ReLUs and with tanh, as logged. In the paper, a four-layer net '
        'with ReLUs reaches 25 % on CIFAR-10 six times faster than one with tanh.'
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
    """Says when each run reached the level, and how many times longer the second took."""
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
        return f'{line} The net with tanh takes {tanh / relu:.1f} times as many epochs.'
    if ends['tanh'] <= relu:  # it was not trained for long enough to compare
        return line
    times_longer = f'{ends["tanh"] / relu:.1f}'
    return f'{line} The net with tanh takes more than {times_longer} times as many epochs.'


def _changed_settings(relu: Path, tanh: Path) -> Html:
    """Names the settings in which the runs differ."""
    first, second = (
        schema.flatten(Workdir(folder).read_record()['config']) for folder in (relu, tanh)
    )
    names = sorted(name for name in first | second if first.get(name) != second.get(name))
    if not names:
        return joined('The two runs have the same settings.')
    return joined('The two runs differ in ', code(', '.join(names)), '.')


def ablations(file: Path) -> Section:
    """Shows the error of the net without each of the paper's ideas, as a table.

    Args:
      file: an ablations.json with 'config', 'seeds', 'command' and 'rows'. The first row is the
        net from which the others differ in one change. Errors and differences are fractions.

    Raises:
      UserError: the file cannot be read, or has other content.
    """
    if not file.is_file():
        raise UserError(f'there is no {file}: alexnet_jax.ablations writes one')
    try:
        return _ablations(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file} is not a table of ablations: {type(error).__name__}: {first_line(error)}'
        ) from error


def _ablations(results: Mapping[str, Any]) -> Section:
    header = ('without', 'error (%)', 'difference', Prose('paper'), Prose('2012 log'), 'minutes')
    rows = [_ablation(row) for row in results['rows']]
    seeds = ', '.join(map(str, results['seeds']))
    caption = joined(
        f'Top-1 test error: the mean over the seeds {seeds}, and below it the error of each seed. '
        'The difference from the first row is in percentage points, with its 95 % interval; it is '
        'within noise where the interval contains 0. Made by ',
        code(results['command']),
        f' on {results["config"]}.',
    )
    return Section('ablations', 'Ablations', table(header, rows, caption))


def _ablation(row: Mapping[str, Any]) -> tuple[object, ...]:
    each = ' '.join(f'{100 * error:.2f}' for error in row['errors'])
    name = 'nothing' if row['name'] == 'base' else row['name']
    return (
        joined(name, tag('div', row['claim'], class_='claim')),
        joined(f'{100 * row["mean"]:.2f}', tag('div', each, class_='faint')),
        _points(row['difference'], row['low'], row['high']),
        Prose(row['paper'] or ''),
        Prose(row['log'] or ''),
        f'{row["minutes"]:.1f}',
    )


def _points(difference: float | None, low: float | None, high: float | None) -> Html | str:
    """Formats a difference in percentage points, with its interval."""
    if difference is None:
        return ''
    points = f'{100 * difference:+.2f}'
    if low is None or high is None:
        return points
    bounds = tag('div', f'{100 * low:+.2f} to {100 * high:+.2f}', class_='faint')
    noise = tag('div', 'within noise', class_='faint') if low <= 0 <= high else None
    return joined(points, bounds, noise)
