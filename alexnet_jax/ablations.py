"""Trains a config without each of its parts in turn and tabulates the differences (§3, §4).

    python -m alexnet_jax.ablations
        every ablation that the embedded digits allow, three seeds each: 39 runs of about a minute
    python -m alexnet_jax.ablations --only=lrn,dropout --seeds=2 --config.optimizer.epochs=12.0
        some of them, in minutes
    python -m alexnet_jax.ablations --config=ilsvrc2012_as_run
    python -m alexnet_jax.ablations --config=ilsvrc2012 --parallel=4
        four runs at a time, each on a quarter of the GPUs

Each run is one of alexnet_jax.main, in a folder of its own below --workdir; after a stop, the same
command resumes. The table is printed at the end, and after every run it is written to ablations.txt
and ablations.json in that folder; alexnet_jax.report shows it.

A difference is the error without the part minus the error of the base, both means over the seeds,
with Welch's 95 % interval over the seeds. The interval does not cover the choice of test images.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from alexnet_jax.config import command_line
from alexnet_jax.config.ablations import ABLATIONS
from alexnet_jax.evaluation.studies import study_program
from alexnet_jax.evaluation.studies.ablation_study import (
    BASE,
    ablation_rows,
    ablation_table,
    ablation_text,
)
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.table import note_on_devices
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_path, check_writable
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.user_errors import UserError, list_items, report_user_errors
from alexnet_jax.training.fitted_run import fit_run

_SEEDS = flags.DEFINE_integer(
    'seeds', 3, 'Number of runs of each: their seeds count from 0.', 1, 1000
)
_ONLY = flags.DEFINE_multi_string(
    'only', [], f'Ablations to run, of {", ".join(ABLATIONS)}. Default: all.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, "Folder of all runs. Default: runs/ablations- and the config's name."
)
flags.adopt_module_key_flags(study_program)
flags.adopt_module_key_flags(command_line)  # --help shows them


def main(_: Sequence[str]) -> None:
    """Trains what is missing and tabulates the results."""
    with report_user_errors():
        refuse_several('alexnet_jax.ablations')
        config_name = command_line.file().stem
        name = f'runs/ablations-{config_name}' if _WORKDIR.value is None else _WORKDIR.value
        folder = check_path(name, '--workdir').absolute()
        check_writable(folder, '--workdir')
        only = list_items(_ONLY.value)
        if _ONLY.value and not only:
            raise UserError('--only= is empty: name ablations, or leave it out for all')
        settings = command_line.raw(), command_line.overrides(), command_line.rules()
        fit = fit_run(*settings, folder / f'{BASE}-0')
        raw = fit.raw
        rows, left_out = ablation_rows(raw, only)
        arguments = command_line.config_arguments(without=('seed',))
        study = Study(rows, _SEEDS.value, folder, arguments)
        workers = study_program.workers()
        if fit.notes:
            show(fit.notes)
        for why in left_out.values():
            show(why)
        printed = study_program.run_study(study, workers, lambda: _write(study, raw, folder))
        show(f'\n{printed}\n{folder / "ablations.json"}')


def _note(study: Study) -> str:
    return (
        f'error of the test views, means over those of {len(study.seeds)} seeds that have ended; '
        'difference: from (nothing), in percentage points; noise: the interval contains 0'
        f'{note_on_devices(study)}'
    )


def _arguments() -> list[str]:
    """Returns the flags of this study, without its workdir."""
    arguments = [*command_line.config_arguments(), f'--seeds={_SEEDS.value}']
    return [*arguments, f'--only={",".join(list_items(_ONLY.value))}'] if _ONLY.value else arguments


def _write(study: Study, raw: ConfigDict, folder: Path) -> str:
    """Writes the table of the results so far and returns its text."""
    table = ablation_table(study, raw)
    printed = f'{ablation_text(table)}\n\n{_note(study)}'
    summary = {
        'config': command_line.config_name(),
        'seeds': list(study.seeds),
        'command': shlex.join(['python', '-m', 'alexnet_jax.ablations', *_arguments()]),
        'rows': table,
    }
    study_program.write_results(folder, 'ablations', summary, printed)
    return printed


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse)
