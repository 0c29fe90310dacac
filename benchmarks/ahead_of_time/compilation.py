"""Compiling a lowered program for a described device, and what the compiler says about it."""

import collections
import concurrent.futures
import itertools
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ahead_of_time.devices import Gpu, Tpu

from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

# Nothing can be timed, so cuDNN's and cuBLAS's algorithms are not chosen.
GPU_OPTIONS = {'xla_gpu_autotune_level': 0}
REGISTERS_PER_CORE = 65536
PROGRAM, REPORT = 'program.hlo', 'report.json'  # in the folder of a program

_USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r'(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?'
    r'Used (?P<registers>\d+) registers',
    re.DOTALL,
)
_ATOMIC_OR_TENSOR = re.compile(r'\b(?:atom|red|w?g?mma)\.[\w.:]+')
_THREADS = re.compile(r'\.(?:reqntid|maxntid) (\d+)(?:, (\d+), (\d+))?')


class Memory(NamedTuple):
    """The memory plan of a program, in bytes on each device.

    cuDNN's workspaces are not in it: they depend on the algorithms that are chosen on the device.

    Attributes:
      arguments: of the state and the batch.
      temporaries: of everything between.
      results: beside those that take the place of arguments.
    """

    arguments: int
    temporaries: int
    results: int


class Registers(NamedTuple):
    """The report of ptxas on one kernel.

    Attributes:
      kernel: its name.
      threads: threads in a block.
      registers: registers of a thread.
      spills: bytes that a thread stores for lack of registers.
      widest: the bytes of a thread's widest access to the device memory.
      occupancy: the fraction of a core's threads that its registers suffice for.
    """

    kernel: str
    threads: int
    registers: int
    spills: int
    widest: int
    occupancy: float


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
      text: the instructions, as XLA prints them.
      memory: the memory plan.
      registers: the kernels of a GPU's program; empty without ptxas and for other devices.
      options: XLA's options that are not the defaults, NAME: VALUE, as XLA writes them for a GPU.
      ptx: the number of atomic and of tensor-core instructions by their names, in the kernels that
        XLA and Triton have made; not in those of cuDNN and cuBLAS.
    """

    text: str
    memory: Memory
    registers: list[Registers]
    options: list[str]
    ptx: dict[str, int]


def compile_program(
    lowered: Any,
    device: Gpu | Tpu,
    assembler: Path | None,
    out: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compiles a program for a described device.

    Args:
      lowered: JAX's Lowered.
      device: the kind of device that it was lowered for.
      assembler: the path of ptxas, for registers and spills.
      out: a folder for program.hlo, and for a GPU the PTX of each kernel; see `prepare_folder`.
      options: more options of the compiler.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses the program.
    """
    with tempfile.TemporaryDirectory() as temporary:
        dump = Path(temporary)
        every = dict(options or {})
        if isinstance(device, Gpu):
            every |= GPU_OPTIONS | {'xla_dump_to': str(dump)}
        compiled = lowered.compile(compiler_options=every)
        text, plan = compiled.as_text(), compiled.memory_analysis()
        files = [file for file in sorted(dump.glob('*.ptx')) if _entry(file.read_text())]
        registers: list[Registers] = []
        if isinstance(device, Gpu) and assembler:
            registers = _registers(files, assembler, device.threads)
        dumped = [file.read_text().splitlines() for file in dump.glob('*debug_options')]
        ptx = collections.Counter(
            name for file in files for name in _ATOMIC_OR_TENSOR.findall(file.read_text())
        )
        if out:
            prepare_folder(out)
            for file in [*out.glob('*.ptx')] if (out / PROGRAM).exists() else ():
                file.unlink()  # of the program that was there
            (out / PROGRAM).write_text(text)
            for file in files:
                shutil.copy(file, out / f'{_entry(file.read_text())}.ptx')
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    memory = Memory(plan.argument_size_in_bytes, plan.temp_size_in_bytes, results)
    return Compiled(text, memory, registers, sorted(itertools.chain(*dumped)), dict(ptx))


def prepare_folder(out: Path) -> None:
    """Makes a folder for a program, or checks that it holds nothing else.

    The files of another program are replaced.

    Raises:
      UserError: the folder cannot be written to, or has files that are not of a program.
    """
    with explain_os_errors(f'write to {out}'):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        others = [file.name for file in out.iterdir() if not _is_of_program(file)]
    if others:
        raise UserError(f'{out} holds {others[0]}, which is not of a program: choose a new folder')


def _is_of_program(path: Path) -> bool:
    if path.is_dir():  # that of a kernel
        return all(_is_of_program(file) for file in path.iterdir())
    return path.suffix == '.ptx' or path.name in (PROGRAM, REPORT)


def _entry(ptx: str) -> str:
    """Returns the name of the kernel; '' for a file of constants."""
    match = re.search(r'\.entry (\w+)', ptx)
    return match[1] if match else ''


def _registers(files: Sequence[Path], assembler: Path, most_threads: int) -> list[Registers]:
    """Returns the registers of each kernel, as ptxas counts them."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        usages = pool.map(lambda file: _usage(file, assembler, most_threads), files)
        return sorted(usage for usages_of_file in usages for usage in usages_of_file)


def _usage(file: Path, assembler: Path, most_threads: int) -> list[Registers]:
    ptx = file.read_text()
    target = re.search(r'^\.target (\w+)', ptx, re.MULTILINE)
    assert target, file
    command = [str(assembler), '-v', f'-arch={target[1]}', str(file), '-o', os.devnull]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    usages = []
    for match in _USAGE.finditer(result.stderr):
        sizes = _THREADS.search(ptx)
        threads = math.prod(int(size or 1) for size in sizes.groups()) if sizes else 1
        registers = int(match['registers'])
        spills = int(match['stores']) + int(match['loads'])
        occupancy = _occupancy(registers, threads, most_threads)
        usages.append(Registers(match['name'], threads, registers, spills, _widest(ptx), occupancy))
    return usages


def _occupancy(registers: int, threads: int, most_threads: int) -> float:
    per_thread = -(-registers // 8) * 8  # they are allocated by 8
    blocks = REGISTERS_PER_CORE // (per_thread * threads)
    return min(1.0, blocks * threads / most_threads)


def _widest(ptx: str) -> int:
    """Returns the bytes of the widest load or store of the device memory in a kernel."""
    accesses = re.findall(r'\b(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[a-z](\d+)\b', ptx)
    return max((int(vector or 1) * int(bits) // 8 for vector, bits in accesses), default=0)
