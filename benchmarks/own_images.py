"""Trains on three sets of pictures for ten minutes each, with two recipes: own_images and digits.

    apt-get install dataset-fashion-mnist openclipart-png mate-backgrounds   # the pictures
    python benchmarks/own_images.py [--minutes=10] [--sets=fashion28,photos] [--out=FILE.json]

picture_sets.py describes the sets. Each run is started by the command line as a user would, from
the folder of the pictures alone (the digits' recipe is also told the number of classes), and is
stopped after --minutes if it has not ended. The minutes include everything: the start, preparing
the pictures, evaluations. The digits' recipe ends sooner; --stretch=2 --configs=digits multiplies
its epochs and the epochs of its two drops of the learning rate by 2, to give it as long.

The table has the top-1 error of the last evaluation, of the centre crop and of the mean of all
views (a run that was stopped has none), and the epoch that was reached.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import picture_sets
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import circumstances, heading, validate_choices, write

from alexnet_jax import load_config
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, parse_flags, report_user_errors
from alexnet_jax.training.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ('own_images', 'digits')

_MINUTES = flags.DEFINE_float('minutes', 10.0, 'Minutes after which a run is stopped.', 0.1)
_SETS = flags.DEFINE_list('sets', list(picture_sets.SETS), 'Sets to train on.')
_CONFIGS = flags.DEFINE_list('configs', list(CONFIGS), 'Recipes to train with.')
_SETTINGS = flags.DEFINE_list('settings', [], 'Overrides of all runs: model.width=0.125,...')
_STRETCH = flags.DEFINE_float('stretch', 1.0, "Multiplies the epochs of the digits' recipe.", 0.1)
_FOLDER = flags.DEFINE_string('folder', None, 'Folder of the sets and the runs; None removes them.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')
validate_choices(_SETS, picture_sets.SETS)
validate_choices(_CONFIGS, CONFIGS)


def stretched() -> list[str]:
    """Returns the overrides of the digits' epochs that --stretch asks for."""
    recipe = load_config('digits')
    epochs = recipe.optimizer.epochs * _STRETCH.value
    drops = ','.join(f'{x * _STRETCH.value:g}' for x in recipe.learning_rate.steps.epochs)
    return [f'optimizer.epochs={epochs:g}', f'learning_rate.steps.epochs={drops}']


def train(config: str, pictures: Path, folder: Path) -> dict[str, Any]:
    """Trains a run for the stated minutes; returns its errors, its epochs and its seconds."""
    workdir = folder / f'{config}-{pictures.name}'
    train_folder = pictures / 'train'
    classes = len(list((train_folder if train_folder.is_dir() else pictures).iterdir()))
    settings = list(_SETTINGS.value)
    if config != 'own_images':
        settings += [f'dataset.classes={classes}', 'dataset.eval_split=validation', *stretched()]
    command = [
        *(sys.executable, '-m', 'alexnet_jax.main', f'--config={config}'),
        *(f'--config.dataset.folder={pictures}', f'--config.dataset.data_dir={folder / config}'),
        *(f'--workdir={workdir}', *(f'--config.{setting}' for setting in settings)),
    ]
    start = time.monotonic()
    with (folder / f'{workdir.name}.log').open('w') as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(60 * _MINUTES.value)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode not in (0, EXIT_STOPPED):
        sys.exit(f'own_images.py: {workdir.name} failed:\n{Path(log.name).read_text()[-2000:]}')
    lines = Workdir(workdir).read_metrics()
    last = [line for line in lines if 'eval/top1_error' in line][-1]
    views = [value for name, value in last.items() if name.endswith('_views/top1_error')]
    return {
        'centre': last['eval/top1_error'],
        'views': views[0] if views else None,
        'epochs': [line['epoch'] for line in lines if 'epoch' in line][-1],
        'seconds': time.monotonic() - start,
        'ended': process.returncode == 0,
    }


def main(_: Sequence[str]) -> None:
    """Trains all runs, and prints the table."""
    with report_user_errors():
        _compare()


def _compare() -> None:
    about = circumstances(('jax', 'jaxlib', 'flax', 'pillow'))
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if _FOLDER.value is None else _FOLDER.value).absolute()
        sets = [picture_sets.make(name, folder / 'sets') for name in _SETS.value]
        for pictures in sets:
            for config in _CONFIGS.value:
                results[f'{pictures.name}, {config}'] = train(config, pictures, folder)
    rows: list[tuple[str, ...]] = [('top-1 error', 'centre', 'views', 'epochs', 'seconds', '')]
    for name, result in results.items():
        views = '' if result['views'] is None else f'{result["views"]:.2%}'
        numbers = (f'{result["epochs"]:.1f}', f'{result["seconds"]:.0f}')
        end = 'ended' if result['ended'] else 'stopped'
        rows.append((name, f'{result["centre"]:.2%}', views, *numbers, end))
    print(f'{heading(about)}\n\n{align_columns(rows)}')
    if _OUT.value:
        write(_OUT.value, about | {'minutes': _MINUTES.value, 'results': results})


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
