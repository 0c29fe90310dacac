"""Groups of processes that train one net together, as a user or a launcher starts them."""

import json
import os
import random
import socket
import subprocess
import sys
import time

import nets
import runs

SECONDS = 200  # after which a group of a test has hung
LOST_SECONDS = 8  # for the limits of the monitor, so that tests wait less than users
SLACK = 15  # of the limit from a fault to the end of the last process; the machine may be busy


def free_port():
    """Returns a port that is free now, far from those that the system gives to connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as attempt:
            try:
                attempt.bind(('localhost', port))
            except OSError:
                continue
            return port


class Group:
    """Processes of alexnet_jax.main.

    Args:
      count: the number of processes.
      workdir, data_dir: as for `runs.command`.
      arguments: more flags; a function of the process for flags that differ.
      faults: what goes wrong, by process: see `faults`.
      variables: of the environment.
      address: of the host of process 0.
      prefix: the beginning of the command of a process, by process: another host, for example.
      lost_seconds: the monitor's limit for a process that is lost.
      settings: as for `runs.command`.
    """

    def __init__(
        self,
        count,
        workdir,
        data_dir,
        arguments=(),
        faults=None,
        variables=None,
        address='localhost',
        prefix=lambda process: [],
        lost_seconds=LOST_SECONDS,
        **settings,
    ):
        port = free_port()
        self.start = time.monotonic()
        self.processes = []
        for process in range(count):
            command = runs.command(workdir, data_dir, **settings)
            command[1:3] = ['-m', 'faults']
            command += [f'--processes={count}', f'--process={process}']
            command += [f'--coordinator={address}:{port}']
            command += arguments(process) if callable(arguments) else arguments
            environment = {k: v for k, v in os.environ.items() if k != 'JAX_NUM_CPU_DEVICES'}
            folders = nets.ROOT, nets.ROOT / 'tests', nets.ROOT / 'tests' / 'processes'
            environment |= {'PYTHONPATH': ':'.join(map(str, folders))} | (variables or {})
            environment['XLA_FLAGS'] = '--xla_backend_optimization_level=0'  # as in runs.start
            environment['LOST_SECONDS'] = str(lost_seconds)
            environment['FAULT'] = json.dumps((faults or {}).get(process, {}))
            self.processes.append(
                subprocess.Popen(
                    prefix(process) + command,
                    cwd=nets.ROOT,
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            )

    def wait(self):
        """Waits for the end of all; `codes`, `out` and `err` have a value for each process."""
        deadline = self.start + SECONDS
        outputs = []
        try:
            for process in self.processes:
                outputs.append(process.communicate(timeout=max(1, deadline - time.monotonic())))
        finally:
            for process in self.processes:
                process.kill()
        self.seconds, self.ended = time.monotonic() - self.start, time.time()
        self.codes = [process.returncode for process in self.processes]
        self.out, self.err = zip(*outputs, strict=True)
        return self

    def lines(self, process):
        """Returns what the program itself has written to stderr, without XLA's lines."""
        return [x for x in self.err[process].splitlines() if x.startswith('alexnet_jax:')]


def run(*arguments, **options):
    return Group(*arguments, **options).wait()


def seconds_from_fault(group):
    """Returns the seconds from the fault to the end of the group."""
    moments = [line for err in group.err for line in err.splitlines() if line.startswith('fault')]
    return group.ended - float(moments[0].split()[-1])


def main():
    """Starts a group as tests do: COUNT WORKDIR DATA_DIR [FLAGS]."""
    count, workdir, data_dir, *arguments = sys.argv[1:]
    group = run(int(count), workdir, data_dir, arguments)
    for process in range(int(count)):
        print(f'process {process}: exit code {group.codes[process]}')
        print(group.out[process][-2000:], group.err[process][-3000:])
    print(f'{group.seconds:.1f} s')


if __name__ == '__main__':
    main()
