"""Rounds in turn, the circumstances, and the file of the results, for all benchmarks."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

Contender = Callable[[], object]  # runs the work once and waits until it is done

PAUSE = 0.2  # seconds before each measurement on a CPU

NO_TORCH = 'PyTorch is not installed, so its rows are left out: pip install torch'


def validate_choices(flag: flags.FlagHolder, choices: Collection[str]) -> None:
    """Makes a list flag accept these names only, at least one of them."""
    flags.register_validator(
        flag.name,
        lambda names: bool(names) and set(names) <= {*choices},
        f'choose from {", ".join(choices)}',
    )


def measure(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each contender in each round, after a round that is not counted.

    Before each one on a CPU the program sleeps: the threads of PyTorch and ONNX Runtime wait
    actively for more work after the end of a computation, at the expense of whoever runs next.
    """
    pause = PAUSE if on_cpu() else 0
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(pause)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


class Others:
    """Measures how busy other processes keep the cores, where the system counts that (Linux)."""

    def __init__(self) -> None:
        self._start = self._read()

    def fraction(self) -> float | None:
        """Returns the fraction of all cores' time since the start; None where it is unknown."""
        if self._start is None or (now := self._read()) is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, busy - own) / max(total, 1e-9)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Returns seconds of all cores: in total, busy, and busy with this process."""
        file = Path('/proc/stat')
        if not file.exists():
            return None
        ticks = [int(field) for field in file.read_text().splitlines()[0].split()[1:9]]
        total, idle = sum(ticks), sum(ticks[3:5])  # idle, and idle with a disk to wait for
        per_second = os.sysconf('SC_CLK_TCK')
        return total / per_second, (total - idle) / per_second, time.process_time()


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """Returns the command, date, device and versions under which a result is measured.

    Args:
      packages: the packages whose versions are recorded, in addition to Python's.
    """
    script = Path(sys.argv[0]).name
    return {
        'command': shlex.join(['python', f'benchmarks/{script}', *sys.argv[1:]]),
        'date': datetime.date.today().isoformat(),
        'device': processor() if on_cpu() else jax.devices()[0].device_kind,
        'cores': os.cpu_count(),
        'versions': {'python': platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def heading(about: Mapping[str, Any]) -> str:
    """Formats the circumstances for the terminal."""
    versions = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
    return '{command}\n{date}, {device}, {cores} cores\n'.format(**about) + versions


def on_cpu() -> bool:
    """Checks whether JAX computes on the CPU by default."""
    return jax.devices()[0].platform == 'cpu'


def processor() -> str:
    """Returns the name of the processor, or its architecture where the name is unknown."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def run_benchmark(
    program: str,
    packages: Sequence[str],
    benchmark: Callable[[dict[str, Any]], None],
    path: str | None,
) -> None:
    """Runs a benchmark as a program: prints its circumstances, and writes its result.

    Args:
      program: the name of the program, for messages.
      packages: whose versions belong to the circumstances.
      benchmark: adds the result to the circumstances, and prints it.
      path: the file for the result; None for none.
    """
    from alexnet_jax.runtime.user_errors import UserError  # once its folder is on sys.path

    about = circumstances(packages)
    print(heading(about))
    try:
        benchmark(about)
    except UserError as error:
        sys.exit(f'{program}: {error}')
    if path:
        write(path, about)


def write(path: str, about: Mapping[str, Any]) -> None:
    """Writes a result as JSON."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(about, indent=2) + '\n')
