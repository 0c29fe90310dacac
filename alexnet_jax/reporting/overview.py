"""The parts of a report about the run itself: its errors, how it came about, its curves."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config.schema import Config
from alexnet_jax.evaluation import error_rates
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.reporting import history, terminal
from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.page import Section, code, facts, figure, paragraph, percent, table
from alexnet_jax.reporting.plots import Curve, line_plot
from alexnet_jax.runtime.progress import time_left
from alexnet_jax.training.workdir import Workdir


def notes(config: Config, step: int, log: history.History) -> Html:
    """What must be known before anything else, if there is such a thing.

    Args:
      step: of the checkpoint.
    """
    lines = []
    if config.dataset.name == 'synthetic':
        lines.append('Made-up images: only the speed means anything; the errors are of noise.')
    if log.step > step:
        lines.append(
            f'Training has gone on to step {log.step:,} since: the curves show it, everything else '
            f'is of the checkpoint at step {step:,}.'
        )
    return joined(*(tag('p', line, class_='note') for line in lines))


def origin(workdir: Path, config: Config, step: int, log: history.History, command: str) -> Section:
    """What was trained, for how long, on what, and how to make the page again.

    Args:
      step: of the checkpoint.
      command: that makes the page.
    """
    pairs: list[tuple[str, object]] = [
        ('Net', _net(config)),
        ('Trained', _trained(config, step, log)),
    ]
    if log.images_per_second:
        seconds = log.training_seconds(config.optimizer.batch_size)
        took = f'about {time_left(seconds)} of training steps'
        pairs.append(('Speed', f'{log.images_per_second:,.0f} images/s in training; {took}'))
    pairs += _starts(Workdir(workdir).read_record()['starts'])
    now = datetime.datetime.now(datetime.UTC)
    pairs.append(('This page', joined(f'{now:%Y-%m-%d %H:%M} UTC, by ', code(command))))
    return Section('run', 'The run', facts(pairs))


def _net(config: Config) -> str:
    towers = config.model.towers
    count = f'{towers} tower{"s" if towers > 1 else ""}'
    return f'{count}, {parameter_count(config):,} parameters, {config.model.dtype}'


def _trained(config: Config, step: int, log: history.History) -> str:
    epochs = f'{log.epoch(step):.1f} of {config.optimizer.epochs:g} epochs'
    return f'{epochs}: {step:,} steps of {config.optimizer.batch_size} images; seed {config.seed}'


def _starts(starts: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """When, on what and with which versions, from the starts in a config.json."""
    last = starts[-1]
    began = datetime.datetime.fromisoformat(starts[0]['started'])
    again = f'; started {len(starts)} times' if len(starts) > 1 else ''
    mesh = ' x '.join(f'{name} {size}' for name, size in last['mesh'].items())
    versions = ', '.join(f'{name} {version}' for name, version in last['versions'].items())
    return [
        ('Begun', f'{began:%Y-%m-%d %H:%M} UTC{again}'),
        (
            'Devices',
            f'{len(last["devices"])} x {last["device_kind"]} ({mesh}); {last["processor"]}',
        ),
        ('Versions', f'Python {last["python"]}, {versions}'),
    ]


def errors(
    config: Config, labels_N: np.ndarray, centre_NK: np.ndarray, mean_NK: np.ndarray
) -> Html:
    """Top-1 and top-5 error of the centre and of the mean over views, with their intervals.

    Args:
      labels_N: (N,) int32.
      centre_NK, mean_NK: (N, K) float32 probabilities.
    """
    top = [
        n for n in error_rates.TOP if n < config.dataset.classes
    ]  # the others are 0 by definition
    seen = {'centre crop': centre_NK}
    if config.views > 1:
        seen[f'mean of {config.views} views'] = mean_NK
    rows = [(name, *(_error(p, labels_N, n) for n in top)) for name, p in seen.items()]
    split = f'{config.dataset.eval_split} of {config.dataset.folder or config.dataset.name}'
    caption = (
        f'{len(labels_N):,} test images ({split}). Below each error its 95 % interval for the '
        'choice of test images (Wilson); what another seed would change is not in it.'
    )
    return table(('', *(f'top-{n} error' for n in top)), rows, caption)


def _error(p_NK: np.ndarray, labels_N: np.ndarray, top: int) -> Html:
    found = error_rates.errors(p_NK, labels_N)
    error = {1: found.top1, 5: found.top5}[top]
    low, high = error_rates.interval(error, found.images)
    bounds = f'{percent(low)} to {percent(high)}'
    return joined(tag('div', percent(error), class_='big'), tag('div', bounds, class_='faint'))


def curves(config: Config, log: history.History) -> Section:
    """Loss, errors and the learning rate over epochs."""
    title = 'Curves'
    if not len(log.curve('train/loss')[0]):
        return Section('curves', title, paragraph('Nothing has been logged yet.'))

    def curve(label: str, name: str, style: str, times: float = 1.0) -> Curve:
        x, y = history.thinned(log.curve(name))
        return Curve(label, (x, times * y), style)

    loss = [curve('training', 'train/loss', 'solid'), curve('test', 'eval/loss', 'dotted')]
    errors = [
        curve('training', 'train/top1_error', 'solid', 100),
        curve('test', 'eval/top1_error', 'dotted', 100),
    ]
    rate = Curve('learning rate', log.curve('learning_rate'))
    plots = [
        figure(
            line_plot(loss, 'epochs', 'loss (nats)'),
            'Cross-entropy; that of the test images for their centre crop.',
        ),
        figure(
            line_plot(errors, 'epochs', 'top-1 error (%)'),
            'Top-1 error, and that of the test images for their centre crop.',
        ),
        figure(
            line_plot([rate], 'epochs', 'learning rate', log=True, height=180),
            f'Learning rate; schedule: {config.learning_rate.schedule}.',
        ),
    ]
    about = (
        'Training values are means since the point before, on varied images and with dropout; so '
        'they may lie above those of the test images.'
    )
    return Section('curves', title, joined(tag('div', *plots, class_='pair'), paragraph(about)))


def settings_of(config: Config) -> Section:
    """All settings of the run."""
    lines = terminal.resolved(config)
    summary = tag('summary', f'{len(lines.splitlines())} settings, as they were resolved')
    return Section('settings', 'Settings', tag('details', summary, tag('pre', lines)))


def is_grey(image: np.ndarray) -> bool:
    """Whether red, green and blue of a (rows, columns, 3) picture are equal."""
    return bool((image == image[..., :1]).all())
