r"""Trains a config with several values of a setting, and tabulates and plots the errors.

    python -m alexnet_jax.sweep --values config.learning_rate.initial=0.003,0.01,0.03
        three runs on the embedded digits
    python -m alexnet_jax.sweep --values optimizer.momentum=0.8,0.9 \
            --values optimizer.weight_decay=0.0005,0.001 --config=ilsvrc2012 --seeds=2 --parallel=2
        all four combinations, each with two seeds; two runs at a time
    python -m alexnet_jax.sweep --values 'config.model.conv3.then=(relu),(relu,max_pooling)'
        tuples in parentheses, with quotes for the shell

Each run is one of alexnet_jax.main, in a folder of its own below --workdir; after a stop, or with
more values, the same command resumes. A run whose loss is no longer finite has a row, too; any
other error stops the sweep. After every run the table is written to sweep.txt and sweep.json in
that folder, and the curves of all runs to report.html.

A difference is the error minus that with the config's own value if it is among the values, else
minus the lowest error; both are means over the seeds. The best value has been chosen by the test
images, so that its error on other images is probably a little higher.
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict

from alexnet_jax.config import command_line, loading, schema
from alexnet_jax.data.preparation.own_images.fitting import Fitted
from alexnet_jax.evaluation.studies import study_program
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.sweep_study import (
    Values,
    base_row,
    best,
    combinations,
    conclusion,
    name_values,
    other_differences,
    sweep_rows,
    sweep_table,
    sweep_text,
)
from alexnet_jax.evaluation.studies.table import note_on_devices
from alexnet_jax.evaluation.studies.value_lists import format_value, parse_value_lists
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.reporting.comparisons.sweep_page import sweep_page
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.paths import check_path, check_writable
from alexnet_jax.runtime.printing import list_names, show
from alexnet_jax.runtime.user_errors import UserError, report_user_errors
from alexnet_jax.training.fitted_run import fit_run

_VALUES = flags.DEFINE_multi_string(
    'values',
    [],
    'A setting and its values: config.learning_rate.initial=0.003,0.01,0.03. Given several times, '
    'all combinations are trained.',
)
_SEEDS = flags.DEFINE_integer(
    'seeds', 1, 'Number of runs of each combination: their seeds count from 0.', 1, 1000
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of all runs. Default: runs/sweep- and the names of the config and the settings.',
)
flags.adopt_module_key_flags(study_program)
flags.adopt_module_key_flags(command_line)  # --help shows them


class _Sweep(NamedTuple):
    """The runs of a sweep, and what their table says about them.

    Attributes:
      study: the runs.
      lists: the values of each setting.
      rows: the values of each row by its name.
      own: the row that has the config's own values; None where none has.
      folder: the folder of all runs.
      others: the settings that are fitted to the images and differ between the rows, too.
    """

    study: Study
    lists: Mapping[str, Sequence[Any]]
    rows: Mapping[str, Values]
    own: str | None
    folder: Path
    others: Sequence[str]


def main(_: Sequence[str]) -> None:
    """Trains what is missing and tabulates the results."""
    with report_user_errors():
        refuse_several('alexnet_jax.sweep')
        if not _VALUES.value:
            raise UserError('name a setting and its values: --values config.SETTING=VALUE,VALUE')
        lists = parse_value_lists(_VALUES.value)
        for name in lists.keys() & command_line.overrides().keys():
            raise UserError(f'{name} is in --values and has one value, too: leave out one of them')
        combinations(lists)  # refuses too few and too many
        names = [command_line.file().stem, *(name.rpartition('.')[2] for name in lists)]
        workdir = f'runs/sweep-{"-".join(names)}' if _WORKDIR.value is None else _WORKDIR.value
        folder = check_path(workdir, '--workdir').absolute()
        check_writable(folder, '--workdir')
        table_rows = sweep_rows(lists, partial(_raw_with, folder))
        arguments = command_line.config_arguments(without=('seed',))
        study = Study(table_rows, _SEEDS.value, folder, arguments)
        rows = {name_values(values): values for values in combinations(lists)}
        fit, workers = _fit({}, folder / 'own'), study_program.workers()
        own = _own_row(rows, fit.raw)
        sweep = _Sweep(study, lists, rows, own, folder, other_differences(table_rows, lists))
        if fit.notes:
            show(fit.notes)
        printed = study_program.run_study(study, workers, lambda: _write(sweep))
        show(f'\n{printed}\n{folder / "report.html"}')


def _raw_with(folder: Path, values: Values, name: str) -> ConfigDict:
    """Returns the config with some of its settings replaced, not yet checked.

    Settings that follow from the images are fitted to them, and to these values; those of a run
    that has begun are read from its workdir.

    Args:
      folder: the folder of all runs.
      values: the new values.
      name: the beginning of the name of the run's folder.
    """
    return _fit(values, folder / f'{name}-0').raw


def _fit(values: Values, workdir: Path) -> Fitted:
    raw, fixed = command_line.raw(), {*command_line.overrides(), *values}
    loading.override(raw, values)
    return fit_run(raw, fixed, command_line.rules(), workdir)


def _own_row(rows: Mapping[str, Values], own_raw: ConfigDict) -> str | None:
    """Returns the name of the row that has the config's own values, if there is one."""
    own = schema.flatten(own_raw)
    matching = (
        name
        for name, values in rows.items()
        if all(own.get(setting) == value for setting, value in values.items())
    )
    return next(matching, None)


def _note(sweep: _Sweep) -> str:
    base = base_row(sweep.study, sweep.own)
    source = "the config's own" if sweep.own else 'the lowest error'
    seeds = len(sweep.study.seeds)
    note = 'error of the test views'
    if seeds > 1:
        note += f', means over those of {seeds} seeds that have ended; spread: lowest to highest'
    note += f'; difference: from {base} ({source}), in percentage points'
    if seeds > 1:
        note += '; noise: the 95 % interval over the seeds contains 0'
    else:
        note += '; --seeds=2 or more shows how much of it is noise'
    if sweep.others:
        names = list_names(list(sweep.others), 3)
        note += (
            f'\nfitted to the images and to these values, and so not the same in all rows: {names}'
        )
    return f'{note}{note_on_devices(sweep.study)}'


def _command(lists: Mapping[str, Sequence[Any]]) -> str:
    """Returns the command of this sweep, without its workdir."""
    values = [
        f'--values={name}={",".join(map(format_value, values))}' for name, values in lists.items()
    ]
    program = ['python', '-m', 'alexnet_jax.sweep', *command_line.config_arguments()]
    return shlex.join([*program, *values, f'--seeds={_SEEDS.value}'])


def _write(sweep: _Sweep) -> str:
    """Writes the results so far, and returns their text."""
    study, lists = sweep.study, sweep.lists
    table = sweep_table(study, sweep.rows, sweep.own)
    outcome, note = conclusion(study, lists, sweep.rows), _note(sweep)
    printed = f'{sweep_text(table)}\n\n{outcome}\n{note}'
    summary = {
        'config': command_line.config_name(),
        'settings': {name: list(map(format_value, values)) for name, values in lists.items()},
        'seeds': list(study.seeds),
        'command': _command(lists),
        'base': base_row(study, sweep.own),
        'own': sweep.own,
        'best': best(study),
        'conclusion': outcome,
        'note': note,
        'rows': table,
    }
    study_program.write_results(sweep.folder, 'sweep', summary, printed)
    with atomic_files.replace(sweep.folder / 'report.html') as page:
        page.write_text(sweep_page(summary), encoding='utf-8')
    return printed


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse)
