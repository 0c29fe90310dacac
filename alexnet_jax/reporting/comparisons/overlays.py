"""Any runs in one section: their final errors, the settings that differ, and their curves."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config import schema
from alexnet_jax.reporting import history
from alexnet_jax.reporting.comparisons import cells
from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.page import Prose, Section, code, figure, paragraph, table
from alexnet_jax.reporting.plots import COLOURS, STYLES, Curve, curve_look, error_plot
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import divergence
from alexnet_jax.training.workdir import Workdir

MOST = COLOURS * len(STYLES)  # runs whose curves can be told apart

_PLOTS = {
    'train/loss': ('training loss (nats)', 1.0, 'Training loss'),
    'train/top1_error': ('training error (%)', 100.0, 'Top-1 error on the training images'),
    'eval/top1_error': (
        'test error (%)',
        100.0,
        'Top-1 error on the test images, for the centre crop',
    ),
}
_ABOUT = (
    'Training values are means since the previous point, on augmented images and with dropout, so '
    'they may be higher than the test values.'
)


class Group(NamedTuple):
    """Runs that are drawn in the same colour: one, or the seeds of a row of a sweep.

    Attributes:
      label: its name.
      histories: of its runs.
    """

    label: str
    histories: Sequence[history.History]


class _Run(NamedTuple):
    label: str
    folder: Path
    settings: dict[str, Any]
    history: history.History


def compare(folders: Sequence[Path]) -> Section:
    """Compares runs: final errors, the settings that differ, and their curves over epochs.

    Args:
      folders: the workdirs of the runs.

    Raises:
      UserError: there are too few or too many, one is named twice, is not the workdir of a run, or
        its run has logged nothing.
    """
    runs = _read(folders)
    groups = [Group(run.label, [run.history]) for run in runs]
    body = joined(_final_errors(runs), curves(groups), _settings(runs))
    return Section('runs', f'{len(runs)} runs compared', body)


def curves(groups: Sequence[Group]) -> Html:
    """Plots loss and errors of all runs over epochs; their names are in the key of a table."""
    plots = []
    for name, (label, factor, title) in _PLOTS.items():
        drawn = [
            _curve(run, group.label, name, factor, number)
            for number, group in enumerate(groups)
            for run in group.histories
        ]
        if any(len(curve.points[0]) for curve in drawn):
            plot, note = error_plot(drawn, label, legend=False)
            plots.append(figure(plot, f'{title}.{note}'))
    return joined(tag('div', *plots, class_='pair'), paragraph(_ABOUT) if plots else None)


def _curve(run: history.History, label: str, name: str, factor: float, number: int) -> Curve:
    x, y = history.downsample(run.curve(name))
    return Curve(label, (x, factor * y), *curve_look(number))


def _read(folders: Sequence[Path]) -> list[_Run]:
    if not 2 <= len(folders) <= MOST:
        raise UserError(
            f'a comparison needs from 2 to {MOST} runs, that of --workdir included, not '
            f'{len(folders)}: change --with'
        )
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if resolved[number] in resolved[:number]:
            raise UserError(f'{folder} is named twice: leave it out once')
    return [
        _read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)
    ]


def _labels(folders: Sequence[Path]) -> list[str]:
    """Returns the name of each folder, or its path where several have the same name."""
    names = [folder.resolve().name for folder in folders]
    return [
        str(folder) if names.count(name) > 1 else name
        for folder, name in zip(folders, names, strict=True)
    ]


def _read_run(folder: Path, label: str) -> _Run:
    if (folder / 'sweep.json').is_file() and not Workdir(folder).exists():
        raise UserError(
            f'{folder} is the folder of a sweep, whose curves are in {folder / "report.html"}: '
            'name the folders of its runs'
        )
    record, log = Workdir(folder).read_record(), history.read(folder)
    if not log.step:
        raise UserError(f'{folder} has no metrics.jsonl with curves: train it first, or wait')
    return _Run(label, folder, schema.flatten(record['config']), log)


def _final_errors(runs: Sequence[_Run]) -> Html:
    header = ('run', 'epochs', 'training error (%)', 'test error (%)', 'mean of views (%)')
    rows = [
        (
            joined(cells.key(run.label, number), _divergence(run.folder)),
            _epochs(run),
            _last(run.history, lambda name: name == 'train/top1_error'),
            _last(run.history, lambda name: name == 'eval/top1_error'),
            _last(run.history, lambda name: name.endswith('_views/top1_error')),
        )
        for number, run in enumerate(runs)
    ]
    caption = (
        'Top-1 errors as last logged: on augmented training images, on the test images for the '
        'centre crop, and for the mean over all test views. The line before each name is that of '
        'its curves.'
    )
    return table(header, rows, caption)


def _divergence(folder: Path) -> Html | None:
    problem = divergence.read(folder)
    return tag('div', f'diverged: {problem}', class_='claim') if problem else None


def _epochs(run: _Run) -> str:
    done, planned = run.history.epoch(run.history.step), run.settings.get('optimizer.epochs')
    is_complete = not isinstance(planned, int | float) or done >= planned - 0.05
    return f'{done:.1f}' if is_complete else f'{done:.1f} of {planned:g}'


def _last(log: history.History, has_name: Callable[[str], bool]) -> str:
    value = log.last(has_name)
    return '' if value is None else f'{100 * value:.2f}'


def _settings(runs: Sequence[_Run]) -> Html:
    """Lists the settings that are not the same in all runs, each with its values."""
    names = schema.differing_names([run.settings for run in runs])
    if not names:
        return paragraph('All runs have the same settings.')
    header = ('setting', *(Prose(run.label) for run in runs))
    rows = [(code(name), *(Prose(_text(run, name)) for run in runs)) for name in names]
    return table(header, rows, 'The settings in which the runs differ; all others are equal.')


def _text(run: _Run, name: str) -> str:
    """Returns the value of a setting as text; '-' where an older run does not have it."""
    return json.dumps(run.settings[name], ensure_ascii=False) if name in run.settings else '-'
