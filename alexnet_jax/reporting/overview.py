"""The sections of a report about the run itself: its errors, origin, curves and settings."""

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
from alexnet_jax.reporting.plots import Curve, error_plot, line_plot
from alexnet_jax.runtime.progress import time_left
from alexnet_jax.training.workdir import Workdir


def notes(config: Config, step: int, log: history.History) -> Html:
    """Returns the warnings at the top of the page; nothing where none applies.

    Args:
      config: the settings of the run.
      step: training steps done in the checkpoint.
      log: the history of the run.
    """
    lines = []
    if config.dataset.name == 'synthetic':
        lines.append(
            'The images are synthetic noise: only the speed is meaningful, not the errors.'
        )
    if log.step > step:
        lines.append(
            f'Training has continued to step {log.step:,}: the curves include it, everything else '
            f'is from the checkpoint at step {step:,}.'
        )
    return joined(*(tag('p', line, class_='note') for line in lines))


def origin(workdir: Path, config: Config, step: int, log: history.History, command: str) -> Section:
    """Says what was trained, for how long and on which devices, and how to reproduce the page.

    Args:
      workdir: the folder of the run.
      config: its settings.
      step: training steps done in the checkpoint.
      log: its history.
      command: the command that writes the page.
    """
    starts = Workdir(workdir).read_record()['starts']
    pairs: list[tuple[str, object]] = [
        ('Net', _net(config, starts[-1])),
        ('Trained', _progress(config, step, log)),
    ]
    if log.images_per_second:
        seconds = log.training_seconds(config.optimizer.batch_size)
        duration = f'about {time_left(seconds)} of training steps'
        pairs.append(('Speed', f'{log.images_per_second:,.0f} images/s in training; {duration}'))
    pairs += _starts(starts)
    now = datetime.datetime.now(datetime.UTC)
    pairs.append(('This page', joined(f'{now:%Y-%m-%d %H:%M} UTC, by ', code(command))))
    return Section('run', 'The run', facts(pairs))


def _net(config: Config, start: dict[str, Any]) -> str:
    """Describes the net and its arithmetic on the devices of a start.

    Starts that were recorded before 2026-11-26 have no entry 'arithmetic'; the dtype of the
    settings takes its place.
    """
    towers = config.model.towers
    count = f'{towers} tower{"s" if towers > 1 else ""}'
    arithmetic = start.get('arithmetic', config.model.dtype)
    return f'{count}, {parameter_count(config):,} parameters, {arithmetic}'


def _progress(config: Config, step: int, log: history.History) -> str:
    epochs = f'{log.epoch(step):.1f} of {config.optimizer.epochs:g} epochs'
    return f'{epochs}: {step:,} steps of {config.optimizer.batch_size} images; seed {config.seed}'


def _starts(starts: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """Says when, on which devices and with which versions a run was started (config.json)."""
    last = starts[-1]
    first = datetime.datetime.fromisoformat(starts[0]['started'])
    restarts = f'; started {len(starts)} times' if len(starts) > 1 else ''
    mesh = ' x '.join(f'{name} {size}' for name, size in last['mesh'].items())
    versions = ', '.join(f'{name} {version}' for name, version in last['versions'].items())
    return [
        ('Started', f'{first:%Y-%m-%d %H:%M} UTC{restarts}'),
        (
            'Devices',
            f'{len(last["devices"])} x {last["device_kind"]} ({mesh}); {last["processor"]}',
        ),
        ('Versions', f'Python {last["python"]}, {versions}'),
    ]


def errors(
    config: Config, labels_N: np.ndarray, centre_NK: np.ndarray, mean_NK: np.ndarray
) -> Html:
    """Shows the test errors of the centre crop and of the mean over views, with their intervals.

    Args:
      config: the settings of the run.
      labels_N: (N,) int32.
      centre_NK: (N, K) float32 log probabilities for the centre crop.
      mean_NK: (N, K) float32, the logarithms of the mean probabilities over all test views.
    """
    top = terminal.reported_errors(config)
    scores = {'centre crop': centre_NK}
    if config.views > 1:
        scores[f'mean of {config.views} views'] = mean_NK
    rows = [(name, *(_error(p, labels_N, n) for n in top)) for name, p in scores.items()]
    split = f'{config.dataset.eval_split} of {config.dataset.folder or config.dataset.name}'
    caption = (
        f'{len(labels_N):,} test images ({split}). Below each error is its 95 % interval (Wilson) '
        'for the choice of test images; it does not include the variation between seeds.'
    )
    return table(('', *(f'top-{n} error' for n in top)), rows, caption)


def _error(log_p_NK: np.ndarray, labels_N: np.ndarray, top: int) -> Html:
    rates = error_rates.errors(log_p_NK, labels_N)
    error = {1: rates.top1, 5: rates.top5}[top]
    low, high = error_rates.interval(error, rates.images)
    bounds = f'{percent(low)} to {percent(high)}'
    return joined(tag('div', percent(error), class_='big'), tag('div', bounds, class_='faint'))


def curves(config: Config, log: history.History) -> Section:
    """Plots loss, errors and the learning rate over epochs."""
    title = 'Curves'
    if not len(log.curve('train/loss')[0]):
        return Section('curves', title, paragraph('Nothing has been logged yet.'))

    def curve(label: str, name: str, style: str, factor: float = 1.0) -> Curve:
        x, y = history.downsample(log.curve(name))
        return Curve(label, (x, factor * y), style)

    loss = [curve('training', 'train/loss', 'solid'), curve('test', 'eval/loss', 'dotted')]
    errors = [
        curve('training', 'train/top1_error', 'solid', 100),
        curve('test', 'eval/top1_error', 'dotted', 100),
    ]
    rate = Curve('learning rate', log.curve('learning_rate'))
    loss_plot, about_loss = error_plot(loss, 'loss (nats)')
    plot_of_errors, about_errors = error_plot(errors, 'top-1 error (%)')
    measured = 'on the test images, for the centre crop.'
    plots = [
        figure(loss_plot, f'Cross-entropy loss; {measured}{about_loss}'),
        figure(plot_of_errors, f'Top-1 error; {measured}{about_errors}'),
        figure(
            line_plot([rate], 'epochs', 'learning rate', log=True, height=180),
            f'Learning rate; schedule: {config.learning_rate.schedule}.',
        ),
    ]
    about = (
        'Training values are means since the previous point, on augmented images and with dropout, '
        'so they may be higher than the test values.'
    )
    return Section('curves', title, joined(tag('div', *plots, class_='pair'), paragraph(about)))


def settings(config: Config) -> Section:
    """Lists all settings of the run."""
    lines = terminal.settings_text(config)
    summary = tag('summary', f'All {len(lines.splitlines())} settings of the run')
    return Section('settings', 'Settings', tag('details', summary, tag('pre', lines)))


def is_grey(image: np.ndarray) -> bool:
    """Checks whether red, green and blue of a (rows, columns, 3) picture are equal."""
    return bool((image == image[..., :1]).all())
