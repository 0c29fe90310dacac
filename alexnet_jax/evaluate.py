"""Evaluates trained nets: the centre crop, all views, and ensembles (§4.1, §6).

    python -m alexnet_jax.evaluate --workdir=runs/digits
        the errors of a run's newest checkpoint; writes the answers for each image, the errors of
        each class, and the confusion matrix
    python -m alexnet_jax.evaluate --workdir=runs/a,runs/b,runs/c
        each net, and the mean of their softmax outputs
    python -m alexnet_jax.evaluate --workdir=runs/a,runs/b,runs/c --tune_weights
        and weights for that mean, tuned on one half of the images, evaluated on the other
    python -m alexnet_jax.evaluate --workdir=runs/digits --split=train
        on images other than the run's test split

The nets of an ensemble may differ in everything but their test images. Exit codes: 0 success, 2 a
mistake in the command or the data (one line says which).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.runtime.user_errors import UserError, list_items, parse_flags, report_user_errors

_WORKDIR = flags.DEFINE_multi_string(
    'workdir', [], 'Folders of one or more runs, separated by commas.'
)
_SPLIT = flags.DEFINE_string('split', '', "Split to evaluate on. Default: the run's test split.")
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Folder of the TFDS data sets, if they have moved since the training.'
)
_FOLDER = flags.DEFINE_string(
    'folder',
    '',
    'Folder of images that the run was trained on, if it has moved since the training.',
)
_TUNE_WEIGHTS = flags.DEFINE_bool(
    'tune_weights',
    False,
    'Also tune weights of the nets for the lowest top-5 error, as in 2012 (avg-valid.py), on every '
    'second image of each class; their errors are computed on the other images. The files contain '
    'the mean with equal weights; probabilities.npz contains the weighted mean, too.',
)
_OUT = flags.DEFINE_string(
    'out',
    '',
    'Folder for the files. Default: evaluation in the first workdir; evaluation_of_N for N nets.',
)


def main(_: Sequence[str]) -> None:
    """Evaluates the nets that the flags name."""
    with report_user_errors():
        workdirs = _workdirs()
        from alexnet_jax.evaluation import (
            run_evaluation,
        )  # imports JAX; mistakes in the flags are reported first

        dataset = {
            'eval_split': _SPLIT.value,
            'data_dir': _DATA_DIR.value,
            'folder': _FOLDER.value,
        }
        changes = {name: value for name, value in dataset.items() if value}
        out = (
            Path(_OUT.value).expanduser() if _OUT.value else run_evaluation.default_folder(workdirs)
        )
        run_evaluation.evaluate_runs(workdirs, changes, out, _TUNE_WEIGHTS.value)


def _workdirs() -> list[Path]:
    workdirs = [Path(name).expanduser() for name in list_items(_WORKDIR.value)]
    if not workdirs:
        raise UserError('no run is named: --workdir=DIR (see --help)')
    if _TUNE_WEIGHTS.value and len(workdirs) == 1:
        raise UserError('--tune_weights needs several nets: --workdir=DIR,DIR')
    return workdirs


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
