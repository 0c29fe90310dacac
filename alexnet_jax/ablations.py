"""Trains a config without one of its parts at a time, and tabulates what each is worth (§3, §4).

    python -m alexnet_jax.ablations
        every ablation that the embedded digits allow, three seeds each: 39 runs of about a minute
    python -m alexnet_jax.ablations --only=lrn,dropout --seeds=2 --config.optimizer.epochs=12.0
        some of them, in minutes
    python -m alexnet_jax.ablations --config=configs/ilsvrc2012_as_run.py

Each run is one of alexnet_jax.main, in a folder of its own below --workdir; stopped, the same
command goes on where it was. The table is printed after every run that completes a row, and kept in
ablations.txt and ablations.json there; alexnet_jax.report shows it.

A difference is the error without the part less that of the base, the means over the seeds, with
Welch's 95 % interval over the seeds. It knows nothing of which images happen to be tested.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.config import command_line
from alexnet_jax.config.ablations import ABLATIONS
from alexnet_jax.evaluation.ablation_study import Study, rows, text, train
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import report_user_errors

_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each: with this many seeds, from 0 on.', 1)


_ONLY = flags.DEFINE_list('only', [], f'These alone, of {", ".join(ABLATIONS)}. Default: all.')


_WORKDIR = flags.DEFINE_string(
    'workdir', None, "Folder of all runs. Default: runs/ablations- and the config's name."
)


def main(_: Sequence[str]) -> None:
    """Trains and tabulates."""
    with report_user_errors():
        config_name = command_line.file().stem
        folder = Path(_WORKDIR.value or f'runs/ablations-{config_name}').expanduser().absolute()
        study = Study(command_line.raw(), _SEEDS.value, _ONLY.value, folder)
        for why in study.left_out.values():
            print(why)
        given = [x for x in sys.argv[1:] if x.startswith('--config')]
        for name, seed in train(study, [x for x in given if not x.startswith('--config.seed=')]):
            print(f'    {study.errors(name)[-1]:.2%} top-1 error with seed {seed}', flush=True)
            _write(study, folder)
        print(f'\n{_write(study, folder)}\n{folder / "ablations.json"}')


def _note(study: Study) -> str:
    return (
        f'error of the test views, means over those of {len(study.seeds)} seeds that have ended; '
        'difference: from (nothing), in percentage points; noise: the interval contains 0'
    )


def _arguments() -> list[str]:
    """As they were given, the config by its short name."""
    rest = [x for x in sys.argv[1:] if not x.startswith(('--config=', '--workdir='))]
    return [f'--config=configs/{command_line.file().name}', *rest]


def _write(study: Study, folder: Path) -> str:
    """Writes the table as it stands; gives its text."""
    table = rows(study)
    printed = f'{text(table)}\n\n{_note(study)}'
    summary = {
        'config': f'configs/{command_line.file().name}',
        'seeds': list(study.seeds),
        'command': shlex.join(['python', '-m', 'alexnet_jax.ablations', *_arguments()]),
        'rows': table,
    }
    with atomic_files.replace(folder / 'ablations.json') as partial:
        partial.write_text(json.dumps(summary, indent=2) + '\n')
    with atomic_files.replace(folder / 'ablations.txt') as partial:
        partial.write_text(f'{printed}\n')
    return printed


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse)
