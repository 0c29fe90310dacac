"""Exports a run: writes the files of some formats, checks each, and moves them into a folder."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.evaluation.trained_net import NEWEST, Checkpoint
from alexnet_jax.interchange import grouped_layout, metadata, safetensors_files
from alexnet_jax.interchange.exports import checks, description, onnx_file, readme, stablehlo_file
from alexnet_jax.interchange.portable_net import PortableNet, read_run
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.paths import check_writable
from alexnet_jax.runtime.printing import list_names, printable, show
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

# The files of each format.
FILES = {
    'safetensors': (safetensors_files.FILES[safetensors_files.OURS],),
    'torch': (safetensors_files.FILES[safetensors_files.TORCH], 'alexnet_torch.py'),
    'onnx': ('model.onnx',),
    'stablehlo': ('model.stablehlo',),
}
CONFIG, README = 'config.json', 'README.md'
_RUNTIMES = {'torch': 'torch', 'onnx': 'onnxruntime'}  # packages that run the files of a format


def export(
    workdir: Path,
    formats: Sequence[str],
    out: Path,
    checkpoint: Checkpoint = NEWEST,
    preprocessing: bool = True,
) -> None:
    """Exports a checkpoint of a run, and prints the files and the result of their check.

    Files of an earlier export are replaced once the new ones have passed the check.

    Args:
      workdir: the folder of the run.
      formats: names of FILES.
      out: the folder of the export; it need not exist.
      checkpoint: 'newest', 'best' or its training steps.
      preprocessing: whether the ONNX file has the preprocessing.

    Raises:
      UserError: the run cannot be read, a format cannot express a layer of it, a package is
        missing, the folder has other files or cannot be written, or a file differs from the net.
    """
    check_writable(out, '--out')
    net = read_run(workdir, checkpoint)
    net = dataclasses.replace(net, config=metadata.portable_config(net.config))
    if 'torch' in formats:
        grouped_layout.shapes(net.config)  # refuses what it cannot express
    if 'onnx' in formats:
        onnx_file.check(net.config)
    if 'stablehlo' in formats:
        stablehlo_file.check()
    config = description.describe(net)
    others = _check_folder(out, formats, config)
    if net.config.model.dtype != 'float32':
        show(f'the run computes in {net.config.model.dtype}, and its exports in float32')
    with explain_os_errors(f'write {out}'), _staging(out) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + '\n', 'utf-8')
        (folder / README).write_text(readme.text(net, [*formats, *others]), 'utf-8')
        for name in formats:
            show(f'writing {", ".join(FILES[name])}')
            _write(net, name, folder, preprocessing)
        remarks, pictures = _check(net, formats, folder, workdir, preprocessing)
        files = [CONFIG, README, *(file for name in formats for file in FILES[name])]
        for file in files:
            atomic_files.sync(folder / file)
        # config.json is the last one: a later export then notices that this one was interrupted.
        for file in reversed(files):
            os.replace(folder / file, out / file)
        atomic_files.sync_folder(out)
    checked = f', checked on {pictures}' if pictures else ''
    after = f' after {net.step:,} training steps' if net.step else ''  # 0: not known
    show(f'{printable(str(out))}: the net{after}{checked}')
    table = align_columns([[file, _size((out / file).stat().st_size)] for file in files])
    for file, row in zip(files, table.splitlines(), strict=True):
        show(f'  {row}  {remarks.get(file, "")}'.rstrip())


def _write(net: PortableNet, name: str, folder: Path, preprocessing: bool) -> None:
    file = folder / FILES[name][0]
    match name:
        case 'safetensors':
            safetensors_files.write(net, file)
        case 'torch':
            safetensors_files.write(net, file, safetensors_files.TORCH)
            source = Path(__file__).with_name('alexnet_torch.py')
            (folder / source.name).write_bytes(source.read_bytes())
        case 'onnx':
            onnx_file.write(net, file, preprocessing)
        case 'stablehlo':
            stablehlo_file.write(net, file)
        case _:
            raise ValueError(f'{name!r} is not a format')


def _check(
    net: PortableNet, formats: Sequence[str], folder: Path, workdir: Path, preprocessing: bool
) -> tuple[dict[str, str], str]:
    """Checks each file that was written.

    Returns:
      A remark about files, by name; and the pictures that were used in words, '' for none.

    Raises:
      UserError: a file differs from the net.
    """
    remarks: dict[str, list[str]] = {FILES[name][0]: [] for name in formats}
    for name in ('safetensors', 'torch'):
        if name in formats:
            checks.read_back(net, folder / FILES[name][0])
            remarks[FILES[name][0]].append('equal to the run, bit by bit')
    missing = {name: x for name, x in _RUNTIMES.items() if not checks.is_installed(x)}
    for name in missing.keys() & set(formats):
        remarks[FILES[name][0]].append(f'not run: {missing[name]} is not installed')
    runnable = [name for name in formats if name not in missing and name != 'safetensors']
    pictures = ''
    if runnable:
        images_BHWC, pictures = checks.pictures(workdir, net)
        reference = checks.Reference(net, images_BHWC)
        for name in runnable:
            difference = _difference(reference, name, folder, preprocessing)
            if not difference <= checks.TOLERANCE:
                raise UserError(
                    f'the {name} export differs from the net: on {pictures} its outputs differ by '
                    f'{difference:.1e} of the largest, and {checks.TOLERANCE:.0e} is allowed; '
                    'nothing was written'
                )
            remarks[FILES[name][0]].append(f'outputs differ by {difference:.1e} of the largest')
    return {file: '; '.join(texts) for file, texts in remarks.items()}, pictures


def _difference(reference: checks.Reference, name: str, folder: Path, preprocessing: bool) -> float:
    """Returns the largest difference of the logits of a format, as `Reference.difference`."""
    file = folder / FILES[name][0]
    match name:
        case 'torch':
            return reference.difference('PyTorch', checks.torch_logits(folder))
        case 'onnx':
            outputs = checks.onnx_logits(reference.net, file, preprocessing)
            return reference.difference('ONNX Runtime', outputs)
        case _:
            outputs = checks.stablehlo_log_probabilities(file)
            return reference.difference('StableHLO', outputs, log_softmax=True)


def _check_folder(out: Path, formats: Sequence[str], config: dict[str, Any]) -> list[str]:
    """Checks that the files of this export may be written to a folder.

    Returns:
      The formats of earlier exports of the same net, whose files remain.

    Raises:
      UserError: the folder has files of these names that are not of an export, or files of formats
        that would remain from an export of another net.
    """
    where = printable(str(out))
    existing = [x for x in (CONFIG, README, *sum(FILES.values(), ())) if os.path.lexists(out / x)]
    if not existing:
        return []
    before = _read_json(out / CONFIG)
    if not isinstance(before, dict) or not {'architecture', 'alexnet_jax'} <= before.keys():
        raise UserError(
            f'{where} has files that are not of an export ({list_names(existing, 3)}): choose '
            'another --out'
        )
    others = [name for name in FILES if name not in formats and FILES[name][0] in existing]
    if others and before != json.loads(json.dumps(config)):
        every = ','.join(name for name in FILES if name in formats or name in others)
        raise UserError(
            f'{where} has files of another net or checkpoint: '
            f'{list_names([FILES[name][0] for name in others])}; replace all together '
            f'(--format={every}), or choose another --out'
        )
    return others


def _read_json(file: Path) -> Any:
    """Returns the contents of a JSON file; None where there is none."""
    try:
        return json.loads(file.read_text('utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yields a hidden folder within `out`, which is removed; `out` too, if nothing came of it."""
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix='.export-', dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it has files
                out.rmdir()


def _size(number: int) -> str:
    """Formats a number of bytes."""
    for unit, factor in (('GB', 10**9), ('MB', 10**6), ('kB', 10**3)):
        if number >= factor:
            return f'{number / factor:.1f} {unit}'
    return f'{number} B'
