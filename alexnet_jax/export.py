"""Exports a trained net to other programs: safetensors, PyTorch, ONNX, StableHLO.

    python -m alexnet_jax.export --workdir=runs/digits
        all arrays, the settings and the class names as safetensors, in our layout
    python -m alexnet_jax.export --workdir=runs/digits --format=torch
        a state dict and the PyTorch module that loads it
    python -m alexnet_jax.export --workdir=runs/digits --format=onnx
        the graph for ONNX Runtime and others (pip install onnx)
    python -m alexnet_jax.export --workdir=runs/digits --format=stablehlo
        one file for jax.export: images in, log probabilities out (pip install flatbuffers)
    python -m alexnet_jax.export --workdir=runs/digits --format=safetensors,torch,onnx,stablehlo
        all of them in one folder
    python -m alexnet_jax.export --workdir=runs/digits --checkpoint=best --out=exports/digits
        the checkpoint with the lowest test error, to another folder

The folder also gets config.json, with the layers, the class names and the preprocessing, and
README.md, which says how to load the files. Each file is read back, and what can be run here
computes up to 64 pictures: its logits must be ours to 1e-5 of the largest, otherwise nothing is
written. Exit codes: 0 success, 2 a mistake in the command or the net (one line says which).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.evaluation import run_flags
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.user_errors import UserError, list_items, parse_flags, report_user_errors

_FORMATS = ('safetensors', 'torch', 'onnx', 'stablehlo')

_FORMAT = flags.DEFINE_multi_string(
    'format',
    ['safetensors'],
    f'What to write: {", ".join(_FORMATS)}, or several of them, separated by commas.',
)
_OUT = flags.DEFINE_string('out', None, 'Folder for the files. Default: export in the workdir.')
_PREPROCESSING = flags.DEFINE_bool(
    'preprocessing',
    True,
    'The ONNX file takes uint8 images, and crops them and subtracts the mean itself; with '
    '--nopreprocessing it takes the result of that.',
)
flags.adopt_module_key_flags(run_flags)  # --help shows them
flags.FLAGS['workdir'].help = 'The folder of the run.'
flags.FLAGS['checkpoint'].help = flags.FLAGS['checkpoint'].help.replace('of each run', 'of the run')


def main(_: Sequence[str]) -> None:
    """Exports the net that the flags name."""
    with report_user_errors():
        refuse_several('alexnet_jax.export')
        workdir, formats, checkpoint = _workdir(), _formats(), run_flags.checkpoint()
        out = workdir / 'export' if _OUT.value is None else check_path(_OUT.value, '--out')
        # This imports JAX, which takes a while: mistakes in the flags are reported before.
        from alexnet_jax.interchange.exports import export_folder

        export_folder.export(workdir, formats, out, checkpoint, _PREPROCESSING.value)


def _workdir() -> Path:
    workdir, *others = run_flags.workdirs()
    if others:
        raise UserError('one run is exported at a time: --workdir=DIR')
    return workdir


def _formats() -> list[str]:
    """Returns the formats in the order of _FORMATS."""
    names = list_items(_FORMAT.value)
    for name in names:
        if name not in _FORMATS:
            raise UserError(f'--format={name} is not one of {", ".join(_FORMATS)}')
    if not names:
        raise UserError(f'--format= is empty: name one or more of {", ".join(_FORMATS)}')
    return [name for name in _FORMATS if name in names]


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
