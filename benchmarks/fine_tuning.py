"""Compares fine-tuning with training from random weights, on few images of another data set.

    python benchmarks/fine_tuning.py [--images=20] [--epochs=3] [--seeds=3] [--out=FILE.json]

The net is first trained on the embedded handwritten digits, unless --pretrained names its workdir.
Then it is trained on digits in print (printed_digits.py), of which there are --images per class,
through the command line as a user would: with all layers but fc8 from the first run
(pretrained.workdir), at a lower learning rate and at that of the recipe; with the convolutions
frozen (rate_factor=0); and from random weights, for as many epochs and for ten times as many. The
table has the top-1 error of the centre crop at the end of each run, on --test_images per class.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import printed_digits
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import circumstances, heading, write

from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags
from alexnet_jax.training.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent
CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
FROZEN = tuple(f'model.{name}.rate_factor=0' for name in CONVOLUTIONS)

_IMAGES = flags.DEFINE_integer('images', 20, 'Training images of each class.', 1)
_TEST_IMAGES = flags.DEFINE_integer('test_images', 50, 'Test images of each class.', 1)
_EPOCHS = flags.DEFINE_float('epochs', 3.0, 'Epochs of the compared runs.', 0.01)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Batch size of the compared runs.', 1)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each kind.', 1)
_PRETRAINED = flags.DEFINE_string(
    'pretrained', None, 'Workdir of a run on the digits; None trains one.'
)
_SETTINGS = flags.DEFINE_list('settings', [], 'Overrides of all runs: model.width=0.125,...')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')


def train(workdir: Path, settings: Sequence[str]) -> float:
    """Trains a run as a user does; returns the top-1 error of its last evaluation."""
    overrides = (f'--config.{setting}' for setting in (*_SETTINGS.value, *settings))
    command = [sys.executable, '-m', 'alexnet_jax.main', f'--workdir={workdir}', *overrides]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f'fine_tuning.py: {workdir.name} failed:\n{run.stderr[-2000:]}')
    lines = Workdir(workdir).read_metrics()
    return [line['eval/top1_error'] for line in lines if 'eval/top1_error' in line][-1]


def compare(folder: Path, pretrained: Path) -> dict[str, list[float]]:
    """Trains all runs in a folder; returns the error of each seed by the name of the row."""
    images = folder / 'printed_digits'
    printed_digits.write_folder(images, _IMAGES.value, _TEST_IMAGES.value)
    epochs, long = _EPOCHS.value, 10 * _EPOCHS.value
    taken = f'pretrained.workdir={pretrained}'
    lower = 'learning_rate.initial=0.003'
    kinds: dict[str, tuple[float, tuple[str, ...]]] = {
        'fine-tuned at 0.003': (epochs, (taken, lower)),
        'fine-tuned at 0.01': (epochs, (taken,)),
        'fine-tuned at 0.01, convolutions frozen': (epochs, (taken, *FROZEN)),
        'random weights at 0.01': (epochs, ()),
        f'random weights at 0.01, {long:g} epochs': (long, ()),
    }
    errors: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(_SEEDS.value):
        for i, (kind, (length, settings)) in enumerate(kinds.items()):
            common = (
                *(f'dataset.folder={images}', f'dataset.data_dir={folder / "data"}'),
                *(f'optimizer.epochs={length}', f'optimizer.batch_size={_BATCH_SIZE.value}'),
                *(f'evaluation.every_epochs={length}', f'seed={seed}'),
            )
            errors[kind].append(train(folder / f'run_{i}_{seed}', (*common, *settings)))
    return errors


def main(_: Sequence[str]) -> None:
    """Trains all runs, and prints the table."""
    about = circumstances(('jax', 'jaxlib', 'flax', 'pillow'))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pretrained = folder / 'digits'
        if _PRETRAINED.value is None:
            train(pretrained, ())
        else:
            pretrained = Path(_PRETRAINED.value).absolute()
        errors = compare(folder, pretrained)
    seeds = [f'seed {seed}' for seed in range(_SEEDS.value)]
    rows: list[tuple[str, ...]] = [
        (f'{10 * _IMAGES.value} images, {_EPOCHS.value:g} epochs', 'mean', *seeds)
    ]
    for kind, each in errors.items():
        rows.append((kind, *(f'{error:.1%}' for error in (statistics.mean(each), *each))))
    print(f'{heading(about)}\n\n{align_columns(rows)}')
    if _OUT.value:
        write(_OUT.value, about | {'top1_errors': errors})


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
