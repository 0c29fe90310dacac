"""Tests trained nets: the centre crop, all views, several nets as one (§4.1, §6).

    python -m alexnet_jax.evaluate --workdir=runs/digits
        the errors of a run's newest checkpoint; writes what it answers to each image, the errors
        of each class, and the confusion matrix
    python -m alexnet_jax.evaluate --workdir=runs/a,runs/b,runs/c
        each net, and the mean of their softmax outputs
    python -m alexnet_jax.evaluate --workdir=runs/a,runs/b,runs/c --tune_weights
        and weights for that mean, found on half of the images and tested on the other half
    python -m alexnet_jax.evaluate --workdir=runs/digits --split=train
        on other images than the run's own test split

Nets of an ensemble may differ in everything but the images that they are tested on. Exit codes: 0
tested, 2 a mistake in the command or the data (one line says what).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_WORKDIR = flags.DEFINE_list('workdir', [], 'Folders of runs, with commas; the first is required.')
_SPLIT = flags.DEFINE_string('split', '', "Images to test on. Default: the run's test split.")
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Where TFDS keeps data sets, if they moved since the training.'
)
_FOLDER = flags.DEFINE_string(
    'folder', '', "Where one's own images are, if they moved since the training."
)
_TUNE_WEIGHTS = flags.DEFINE_bool(
    'tune_weights',
    False,
    'Weights of the nets with the lowest top-5 error, searched as in 2012 (avg-valid.py), on every '
    'second image of each class; their errors are those of the other images. Files are of the '
    'plain mean; probabilities.npz has the weighted one too.',
)
_OUT = flags.DEFINE_string(
    'out',
    '',
    'Folder for the files. Default: evaluation in the first workdir, for N nets evaluation_of_N.',
)


def main(_: Sequence[str]) -> None:
    """Does what the flags say."""
    with report_user_errors():
        workdirs = _workdirs()
        from alexnet_jax.evaluation import run_evaluation

        given = {
            'eval_split': _SPLIT.value,
            'data_dir': _DATA_DIR.value,
            'folder': _FOLDER.value,
        }
        changes = {name: value for name, value in given.items() if value}
        out = (
            Path(_OUT.value).expanduser() if _OUT.value else run_evaluation.default_folder(workdirs)
        )
        run_evaluation.evaluate_runs(workdirs, changes, out, _TUNE_WEIGHTS.value)


def _workdirs() -> list[Path]:
    workdirs = [Path(name).expanduser() for name in _WORKDIR.value if name]
    if not workdirs:
        raise UserError('say which run: --workdir=DIR (--help tells more)')
    if _TUNE_WEIGHTS.value and len(workdirs) == 1:
        raise UserError('--tune_weights needs several nets: --workdir=DIR,DIR')
    return workdirs


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
