"""alexnet_jax.main with a fault at a moment that tests choose: FAULT={"turn": 7, "kind": "kill"}.

A moment is the end of a turn of the training loop ('turn'), a batch of an evaluation
('evaluation'), or the beginning of a save ('save'), counted from 1. Kinds: 'kill', 'term', 'raise',
'sleep' (20 s), 'hang', 'disk' (no file may grow), 'command' (runs the shell command 'command'). The
moment is also written to stderr, with the time, as 'fault at 12345.67'.
"""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time

from absl import app

from alexnet_jax import main
from alexnet_jax.config import command_line
from alexnet_jax.processes import turns
from alexnet_jax.training import loop
from alexnet_jax.training.checkpoint import Checkpoints

FAULT = json.loads(os.environ.get('FAULT', '{}'))


def act():
    print(f'fault at {time.time():.2f}', file=sys.stderr, flush=True)
    kind = FAULT['kind']
    if kind == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == 'term':
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == 'raise':
        raise ZeroDivisionError('a fault of the program')
    elif kind == 'sleep':
        time.sleep(20)
    elif kind == 'hang':
        time.sleep(1000)
    elif kind == 'disk':
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    elif kind == 'command':
        subprocess.run(FAULT['command'], shell=True, check=True)


def act_before(owner, name, moment):
    """Replaces a method by one that acts before its n-th call."""
    method, calls = getattr(owner, name), 0

    def wrapper(*arguments, **options):
        nonlocal calls
        calls += 1
        if FAULT.get(moment) == calls:
            act()
        return method(*arguments, **options)

    setattr(owner, name, wrapper)


def act_in_evaluations():
    """Acts before the n-th batch of all evaluations of this process."""
    method, batches = loop.Loop._test_batches, itertools.count(1)

    def wrapper(self):
        for batch in method(self):
            if FAULT.get('evaluation') == next(batches):
                act()
            yield batch

    loop.Loop._test_batches = wrapper


if __name__ == '__main__':
    act_before(turns.Turns, 'end', 'turn')
    act_before(Checkpoints, 'save', 'save')
    act_in_evaluations()
    sys.exit(app.run(main._run, flags_parser=command_line.parse))
