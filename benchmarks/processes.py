"""Times a training step of two processes with a tower each, beside one process with two devices.

    python benchmarks/processes.py [--config=digits] [--batch=128] [--width=0.25] [--steps=10]
        [--repeats=9] [--out=FILE.json]

Both have the same mesh of two CPU devices of this machine, the same net and the same batch of
noise, which is placed on the devices before the clock starts. The two processes exchange maps and
gradients by Gloo over the loopback device, and watch each other as in training; the single process
exchanges them in its memory. In each round both contenders do --steps steps, in turn. The table has
the medians of the steps of all rounds; 'ratio' is the median of the time over that of one process,
round by round. A step of the two processes ends when the slower one has ended it.
"""

import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jax_net import Ours
from measuring import PAUSE, run_benchmark

from alexnet_jax.config import loading, schema
from alexnet_jax.processes import joining
from alexnet_jax.processes.launch import Launch
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, parse_flags

_CONFIG = flags.DEFINE_string('config', 'digits', 'The config of the net.')
_BATCH = flags.DEFINE_integer('batch', 128, 'Images in a batch.', 1)
_WIDTH = flags.DEFINE_float('width', 0.25, 'Multiplies the maps and units of the full net.', 1e-3)
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps of each contender in a round.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Rounds.', 1)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each step.')

START_SECONDS = 120.0  # within which both processes start
NAMES = {1: '1 process, 2 devices', 2: '2 processes, 1 device each'}


class Processes:
    """The processes of one contender, which wait for orders.

    Args:
      count: the number of processes.
      config: the settings of the net.
    """

    def __init__(self, count: int, config: schema.Config) -> None:
        context = multiprocessing.get_context('spawn')
        with socket.create_server(('localhost', 0)) as server:
            address = f'localhost:{server.getsockname()[1]}'
        self._pipes: list[Connection] = []
        self._processes = []
        for index in range(count):
            launch = Launch(count, index, address, None, 'a benchmark') if count > 1 else None
            pipe, other = context.Pipe()
            process = context.Process(target=work, args=(launch, config, other), daemon=True)
            process.start()
            other.close()  # so that the end of the process is noticed
            self._pipes.append(pipe)
            self._processes.append(process)

    def order(self, steps: int) -> list[float]:
        """Runs steps, and returns the seconds of each."""
        for pipe in self._pipes:
            pipe.send(steps)
        return [max(times) for times in zip(*self.answers(), strict=True)]

    def answers(self) -> list[list[float]]:
        """Waits for the answer of each process.

        Raises:
          UserError: a process has ended.
        """
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError as error:
            raise UserError('a process has ended; its own lines are above') from error

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(START_SECONDS)


def work(launch: Launch | None, config: schema.Config, pipe: Connection) -> None:
    """Runs as many steps as the program orders, until it closes the pipe.

    Args:
      launch: the place of this process; None for a program of one process.
      config: the settings of the net.
      pipe: brings the numbers of steps, and takes the seconds of each of them.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the table alone is printed
    jax.config.update('jax_platforms', 'cpu')
    cpu_devices.prepare_cpu_devices(2, 1, launch.count if launch else 1)
    with joining.join(launch, START_SECONDS, hang_seconds=0):
        run = Ours(config).step()
        run()
        pipe.send([])
        while True:
            try:
                steps = pipe.recv()
            except EOFError:
                return
            pipe.send([_seconds(run) for _ in range(steps)])


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def table(rounds: dict[int, list[list[float]]]) -> str:
    """Formats the times for the terminal.

    Args:
      rounds: the seconds of each step of each round, by the number of processes.
    """
    rows: list[tuple[str, ...]] = [('training step', 'ms', 'fastest', 'slowest', 'ratio')]
    for count, own in rounds.items():
        ratio = statistics.median(
            statistics.median(a) / statistics.median(b) for a, b in zip(own, rounds[1], strict=True)
        )
        times = [seconds for each in own for seconds in each]
        values = (statistics.median(times), min(times), max(times))
        rows.append((NAMES[count], *(f'{1000 * x:.1f}' for x in values), f'{ratio:.2f}'))
    return align_columns(rows)


def benchmark(about: dict[str, Any]) -> None:
    """Measures, prints and adds the results to `about`."""
    settings = {'mesh__tower': 2, 'mesh__data': 1, 'model__width': _WIDTH.value}
    config = loading.load_config(_CONFIG.value, optimizer__batch_size=_BATCH.value, **settings)
    print(
        f'config {_CONFIG.value}, batch {_BATCH.value}, width {_WIDTH.value:g}, '
        f'{_REPEATS.value} rounds of {_STEPS.value} steps',
        flush=True,
    )
    rounds: dict[int, list[list[float]]] = {count: [] for count in NAMES}
    contenders = {}
    for count in NAMES:  # one after the other, as both compile on all cores
        contenders[count] = Processes(count, config)
        contenders[count].answers()
    for _ in range(_REPEATS.value):
        for count, processes in contenders.items():
            time.sleep(PAUSE)
            rounds[count].append(processes.order(_STEPS.value))
    for processes in contenders.values():
        processes.close()
    print(f'\n{table(rounds)}')
    about |= {'batch': _BATCH.value, 'width': _WIDTH.value, 'config': _CONFIG.value}
    about['seconds'] = {NAMES[count]: own for count, own in rounds.items()}


def main(_: Sequence[str]) -> None:
    """Runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    jax.config.update('jax_platforms', 'cpu')
    run_benchmark('processes.py', ('jax', 'jaxlib', 'flax', 'optax'), benchmark, _OUT.value)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
