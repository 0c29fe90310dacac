r"""Makes a run of published weights: Caffe's AlexNets, torchvision's, or one of our exports.

    python -m alexnet_jax.import_weights --from_caffe=bvlc_alexnet.caffemodel \
            --mean=imagenet_mean.binaryproto --classes=synset_words.txt --workdir=runs/caffe
        Caffe's bvlc_alexnet or bvlc_reference_caffenet, or a net that was fine-tuned from one of
        them; the program tells them apart by the order of their layers
    python -m alexnet_jax.import_weights --from_torchvision=alexnet.safetensors --workdir=runs/tv
        torchvision's alexnet; a .pth is read where torch is installed, and never executed
    python -m alexnet_jax.import_weights --from_export=FOLDER --workdir=runs/copy
        a safetensors file of alexnet_jax.export, in our layout or in PyTorch's
    python -m alexnet_jax.import_weights --from_caffe=FILE --config.model.width=0.5 --workdir=DIR
        a net with other sizes than the recipe's

The workdir is then like that of any run: evaluate, predict, export and report accept it, and main
trains the net further or fine-tunes it (--config.pretrained.workdir).

Exit codes: 0 success, 2 a mistake in the command or the files (one line says which).
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

from alexnet_jax.config import command_line
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_path, check_writable
from alexnet_jax.runtime.printing import printable, show
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, report_user_errors
from alexnet_jax.training.workdir import Workdir

if TYPE_CHECKING:  # this imports JAX, without which --help is quick
    from alexnet_jax.interchange.incoming.importing import Imported

_FROM_CAFFE = flags.DEFINE_string('from_caffe', None, "Caffe's weights, a .caffemodel file.")
_FROM_TORCHVISION = flags.DEFINE_string(
    'from_torchvision', None, "A state dict of torchvision's alexnet, .safetensors or .pth."
)
_FROM_EXPORT = flags.DEFINE_string(
    'from_export',
    None,
    'A .safetensors file that alexnet_jax.export has written, or its folder.',
)
_MEAN = flags.DEFINE_string(
    'mean',
    None,
    "With --from_caffe: Caffe's mean image, a .binaryproto file. Default: the colour 123, 117, 104 "
    '(red, green, blue).',
)
_CLASSES = flags.DEFINE_string(
    'classes',
    None,
    "File with the name of a class in each line, in the order of the net's outputs: 'n01440764 "
    "tench, Tinca tinca' or any name. Default: for 1,000 classes the WordNet ids of ILSVRC-2012, "
    'sorted; else class_0, class_1, ...',
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder to make; it must not hold a run.')
flags.adopt_module_key_flags(command_line)  # --help shows them
flags.FLAGS.set_default('config', 'bvlc_alexnet')  # for --settings
flags.FLAGS['config'].help += (
    ' If the flag is left out, the file decides between bvlc_alexnet, bvlc_reference_caffenet and '
    'torchvision, and --settings shows bvlc_alexnet.'
)
_SOURCES = {
    'from_caffe': _FROM_CAFFE,
    'from_torchvision': _FROM_TORCHVISION,
    'from_export': _FROM_EXPORT,
}


def main(_: Sequence[str]) -> None:
    """Imports the weights that the flags name."""
    with report_user_errors():
        refuse_several('alexnet_jax.import_weights')
        source, path = _source()
        workdir = _workdir()
        config = command_line.file() if command_line.is_config_given() else None
        classes, mean = _path(_CLASSES), _path(_MEAN)
        # This imports JAX, which takes a while: mistakes in the flags are reported before.
        from alexnet_jax.interchange import portable_net
        from alexnet_jax.interchange.incoming import importing

        read = {
            'from_caffe': importing.import_caffe,
            'from_torchvision': importing.import_torchvision,
            'from_export': importing.import_export,
        }[source]
        request = importing.Request(config, command_line.overrides(), classes, mean)
        show(f'reading {printable(str(path))}')
        imported = read(path, request)
        show(f'writing {printable(str(workdir))}: {_count(imported):,} parameters')
        portable_net.write_run(imported.net, workdir, imported.origin)
        show(_summary(path, imported, workdir))


def _source() -> tuple[str, Path]:
    """Returns the flag that names the weights, and their path.

    Raises:
      UserError: no flag or several name weights, or another flag has no effect with it.
    """
    chosen = [name for name, flag in _SOURCES.items() if flag.value is not None]
    if len(chosen) != 1:
        problem = f'--{" and --".join(chosen)} exclude each other' if chosen else 'no weights'
        raise UserError(
            f'{problem}: pass --from_caffe=FILE, --from_torchvision=FILE or --from_export=FOLDER '
            '(see --help)'
        )
    (name,) = chosen
    if _MEAN.value is not None and name != 'from_caffe':
        raise UserError(f'--mean has no effect with --{name}: leave it out')
    if command_line.is_config_given() and name == 'from_export':
        raise UserError(
            '--config has no effect with --from_export, which has its own: leave it out'
        )
    return name, check_path(_SOURCES[name].value or '', f'--{name}')


def _workdir() -> Path:
    if _WORKDIR.value is None:
        raise UserError('no folder is named for the run: --workdir=DIR (see --help)')
    workdir = check_path(_WORKDIR.value, '--workdir')
    check_writable(workdir, '--workdir')
    has_files = workdir.is_dir() and any(path.name != 'lock' for path in workdir.iterdir())
    if has_files and not Workdir(workdir).lacks_imported_weights():  # an interrupted import
        raise UserError(f'{printable(str(workdir))} is not empty: choose another --workdir')
    return workdir


def _path(flag: flags.FlagHolder[str | None]) -> Path | None:
    return None if flag.value is None else check_path(flag.value, f'--{flag.name}')


def _summary(path: Path, imported: 'Imported', workdir: Path) -> str:
    """Describes what was imported, and what to do next."""
    from alexnet_jax.model.layer_table import layer_table

    net, shapes = imported.net, imported.shapes
    table = layer_table(net.config)
    rows = [('layer', 'weights', 'parameters')]
    rows += [(row.name, str(shapes[row.name]), f'{row.parameters:,}') for row in table]
    named = f', as --config={imported.recipe}' if imported.recipe else ''
    return '\n'.join(
        [
            f'{printable(str(path))}: {_count(imported):,} parameters{named}',
            align_columns(rows),
            f'mean image: {imported.mean}',
            f'{len(net.inputs.classes):,} classes: {imported.classes}',
            *(f'note: {note}' for note in imported.notes),
            f'written to {printable(str(workdir))}; next:',
            *(f'  {command}' for command in _next(imported, workdir)),
        ]
    )


def _count(imported: 'Imported') -> int:
    from alexnet_jax.model.layer_table import parameter_count

    return parameter_count(imported.net.config)


def _next(imported: 'Imported', workdir: Path) -> list[str]:
    folder = shlex.quote(str(workdir))
    commands = [
        f'python -m alexnet_jax.predict --workdir={folder} PICTURE',
        f'python -m alexnet_jax.evaluate --workdir={folder}',
    ]
    if imported.recipe:
        arguments = [f'--config={imported.recipe}', *command_line.override_arguments()]
        fine_tuning = [
            *(shlex.quote(argument) for argument in arguments),
            f'--config.pretrained.workdir={folder}',
            '--config.dataset.folder=PICTURES --config.dataset.classes=0 --workdir=DIR',
        ]
        commands.append(f'python -m alexnet_jax.main {" ".join(fine_tuning)}')
    return commands


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=command_line.parse))
