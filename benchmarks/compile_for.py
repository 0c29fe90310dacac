"""Compiles the net's programs for a GPU or TPU that is not attached, and counts what they do.

    python benchmarks/compile_for.py --install
    python benchmarks/compile_for.py --device=h100 --batch=1024 --dtype=bfloat16
    python benchmarks/compile_for.py --device=h100 --mesh.tower=2 --mesh.data=2 --batch=1024
    python benchmarks/compile_for.py --device=a100 --what=kernels
    python benchmarks/compile_for.py --device=h100 --what=kernels --implementation=mosaic_gpu
    python benchmarks/compile_for.py --device=h100 --options=xla_gpu_enable_triton_gemm=false
    python benchmarks/compile_for.py --device=v5e --batch=128 --dtype=bfloat16
    python benchmarks/compile_for.py --device=h100 --what=gather --images=1281167 --mesh.tower=2
        --mesh.data=4 --batch=1024

It needs neither the device nor its driver, but the compilers, which --install puts in a folder of
their own. It prints the memory plan, the instructions and the bytes that they move for each image,
by kind and by layer, the collective operations, the registers of the Pallas kernels, and the images
per second that the device's rates allow at most. Numbers, speed, and the algorithms of cuDNN and
cuBLAS, which are chosen by timing them, cannot be known in advance.

The settings are those of the paper's net, or of --config with its overrides.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import xla_options
from ahead_of_time import packages, report
from ahead_of_time.compilation import REPORT, compile_program, prepare_folder
from ahead_of_time.devices import DEVICES

from alexnet_jax.config import command_line, loading, schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.ops.implementations import Platform, missing_for_mosaic_gpu
from alexnet_jax.runtime.compilation import describe_arithmetic
from alexnet_jax.runtime.user_errors import UserError, report_user_errors

WHAT = ('step', 'evaluation', 'kernels', 'gather')

HOST_TRANSFER = re.compile(r' (?:infeed|outfeed|send|recv)\(|S\(5\)')  # S(5): memory of the host

_DEVICE = flags.DEFINE_enum('device', 'h100', list(DEVICES), 'The device to compile for.')
_WHAT = flags.DEFINE_enum(
    'what',
    'step',
    WHAT,
    'A training step, the evaluation of one view, each kernel alone, or the programs that bring a '
    'batch from --images images in device memory.',
)
_BATCH = flags.DEFINE_integer('batch', 128, 'Images in a batch, of all devices.', lower_bound=1)
_DTYPE = flags.DEFINE_enum('dtype', 'float32', schema.DTYPES, 'Dtype of the activations.')
_TOWER = flags.DEFINE_integer('mesh.tower', 1, 'Devices that the towers are spread over.', 1)
_DATA = flags.DEFINE_integer('mesh.data', 1, 'Replicas that share each batch.', 1)
_IMAGES = flags.DEFINE_integer('images', 1_281_167, 'Images in device memory, for gather.', 1)
_ROWS = flags.DEFINE_integer('rows', 20, 'The largest instructions to print.', lower_bound=0)
_OUT = flags.DEFINE_string(
    'out', None, 'A new folder for report.json, program.hlo and the PTX of each kernel.'
)
_IMPLEMENTATION = flags.DEFINE_enum(
    'implementation', 'pallas', ('pallas', 'mosaic_gpu'), 'Which kernels --what=kernels compiles.'
)
_OPTIONS = flags.DEFINE_string(
    'options', '', 'Options of the compiler, NAME=VALUE;NAME=VALUE, as for step.py.'
)
_PACKAGES = flags.DEFINE_string('packages', None, 'The folder of the compilers.')
_INSTALL = flags.DEFINE_bool('install', False, 'Install the compilers in their folder, and exit.')

xla_options.validate(_OPTIONS)
flags.FLAGS.set_default('config', 'ilsvrc2012')
flags.adopt_module_key_flags(command_line)  # --help shows them


def settings() -> schema.Config:
    """Returns the settings of the net, with the flags of this program."""
    raw = loading.execute(command_line.file())
    shorthands = {
        'optimizer.batch_size': _BATCH.value,
        'evaluation.batch_size': _BATCH.value,
        'model.dtype': _DTYPE.value,
        'mesh.tower': _TOWER.value,
        'mesh.data': _DATA.value,
    }
    loading.override(raw, shorthands | command_line.overrides())
    return resolve(raw)


def main(_: list[str]) -> None:
    """Compiles what the flags ask for, prints a report, and writes it where that is asked for."""
    with report_user_errors():
        folder = Path(_PACKAGES.value or packages.default_folder())
        if _INSTALL.value:
            packages.install(folder)
            print(f'the compilers are in {folder}')
            return
        if _OUT.value:
            prepare_folder(Path(_OUT.value))  # before the minutes of compilation
        device = DEVICES[_DEVICE.value]
        packages.load(device.platform, folder)
        several = {'kernels': kernels, 'gather': gathers}.get(_WHAT.value)
        reports = several(folder) if several else {_WHAT.value: program(folder)}
        if _OUT.value:
            (Path(_OUT.value) / REPORT).write_text(json.dumps(reports, indent=1) + '\n')
            print(f'written to {_OUT.value}')


def program(folder: Path) -> dict[str, Any]:
    """Compiles the training step or the evaluation; returns and prints the report."""
    from ahead_of_time import programs_of_net
    from roofline import operations_per_image

    config, device = settings(), DEVICES[_DEVICE.value]
    mesh = config.mesh
    devices = device.devices(mesh.data * mesh.tower)
    is_step = _WHAT.value == 'step'
    lower = programs_of_net.training_step if is_step else programs_of_net.evaluation
    compiled = _compile(lower(config, devices), folder, Path(_OUT.value) if _OUT.value else None)
    images = config.optimizer.batch_size / mesh.data
    operations = operations_per_image(config, 'step' if is_step else 'forward')
    work = report.Work(
        images, operations * images / mesh.tower, config.model.dtype, config.model.precision
    )
    result = report.program_report(compiled, device, work)
    arithmetic = describe_arithmetic(
        devices[0], config.model.dtype, config.model.precision, config.deterministic
    )
    changes = ' '.join(command_line.override_arguments())
    print(
        f'{device.kind}, data {mesh.data} x tower {mesh.tower}, {_WHAT.value} of '
        f'{command_line.config_name()}, batch {config.optimizer.batch_size}, {arithmetic}'
        + (f', {changes}' if changes else '')
    )
    report.print_report(result, _ROWS.value)
    return result


def kernels(folder: Path) -> dict[str, dict[str, Any]]:
    """Compiles each kernel alone; returns and prints the reports by the names of the programs."""
    from ahead_of_time import programs_of_net

    device, reports = DEVICES[_DEVICE.value], {}
    devices, implementation = device.devices(1), _IMPLEMENTATION.value
    missing = missing_for_mosaic_gpu(Platform.of_devices(devices))
    if implementation == 'mosaic_gpu' and missing:
        raise UserError(f'--implementation=mosaic_gpu needs {missing}')
    arguments = devices, _BATCH.value, _DTYPE.value, implementation
    for name, lowered in programs_of_net.kernels(*arguments):
        out = Path(_OUT.value) / name.replace(' ', '_') if _OUT.value else None
        start = time.perf_counter()
        result = report.program_report(_compile(lowered, folder, out), device, None)
        print(f'{name}: compiled in {time.perf_counter() - start:.1f} s')
        report.print_kernel(result)
        reports[name] = result
    return reports


def gathers(folder: Path) -> dict[str, dict[str, Any]]:
    """Compiles the programs that bring a batch from images in device memory; prints the reports."""
    from ahead_of_time import programs_of_net

    config, device, reports = settings(), DEVICES[_DEVICE.value], {}
    devices = device.devices(config.mesh.data * config.mesh.tower)
    for name, lowered, size in programs_of_net.gathers(config, devices, _IMAGES.value):
        out = Path(_OUT.value) / name.replace(' ', '_') if _OUT.value else None
        compiled = _compile(lowered, folder, out)
        transfers = len(HOST_TRANSFER.findall(compiled.text))
        result = report.program_report(compiled, device, None)
        reports[name] = result | {'received': size, 'host_transfers': transfers}
        memory = compiled.memory
        print(
            f'{name}: {memory.arguments / 1e9:.2f} GB of images and tables on each device, '
            f'{(memory.temporaries + memory.results) / 1e6:.1f} MB beside them; '
            f'{size / 1e6:.1f} MB reach each device; {transfers} transfers from or to the host'
        )
        report.print_collectives(result)
    return reports


def _compile(lowered: Any, folder: Path, out: Path | None) -> Any:
    device, options = DEVICES[_DEVICE.value], xla_options.parse(_OPTIONS.value)
    return compile_program(lowered, device, packages.assembler(folder), out, options)


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse)
