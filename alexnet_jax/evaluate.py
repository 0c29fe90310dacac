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
    python -m alexnet_jax.evaluate --workdir=runs/digits --checkpoint=best
        the checkpoint with the lowest test error in place of the newest

The nets of an ensemble may differ in everything but their test images. Exit codes: 0 success, 2 a
mistake in the command or the data (one line says which).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.evaluation import moved_images, run_flags
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_SPLIT = flags.DEFINE_string('split', None, "Split to evaluate on. Default: the run's test split.")
_TUNE_WEIGHTS = flags.DEFINE_bool(
    'tune_weights',
    False,
    'Also tune weights of the nets for the lowest top-5 error, as in 2012 (avg-valid.py), on every '
    'second image of each class; their errors are computed on the other images. The files contain '
    'the mean with equal weights; probabilities.npz contains the weighted mean, too.',
)
_OUT = flags.DEFINE_string(
    'out',
    None,
    'Folder for the files. Default: evaluation in the first workdir; evaluation_of_N for N nets.',
)
flags.adopt_module_key_flags(run_flags)  # --help shows them
flags.adopt_module_key_flags(moved_images)


def main(_: Sequence[str]) -> None:
    """Evaluates the nets that the flags name."""
    with report_user_errors():
        refuse_several('alexnet_jax.evaluate')
        workdirs, changes, checkpoint = _workdirs(), _changes(), run_flags.checkpoint()
        out = check_path(_OUT.value, '--out') if _OUT.value is not None else None
        # This imports JAX, which takes a while: mistakes in the flags are reported before.
        from alexnet_jax.evaluation import run_evaluation

        out = out or run_evaluation.default_folder(workdirs)
        run_evaluation.evaluate_runs(workdirs, changes, out, _TUNE_WEIGHTS.value, checkpoint)


def _workdirs() -> list[Path]:
    workdirs = run_flags.workdirs()
    if _TUNE_WEIGHTS.value and len(workdirs) == 1:
        raise UserError('--tune_weights needs several nets: --workdir=DIR,DIR')
    return workdirs


def _changes() -> dict[str, str]:
    """Returns the changes of the runs' settings `dataset`."""
    changes = moved_images.places()
    if _SPLIT.value is not None:
        if not _SPLIT.value.strip():
            raise UserError("--split= is empty: name a split, or leave it out for the run's own")
        changes['eval_split'] = _SPLIT.value
    return changes


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
