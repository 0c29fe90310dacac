"""alexnet_jax.main with a fault at a moment that tests choose: FAULT={"turn": 7, "kind": "kill"}.

A moment is the n-th time, counted from 1, that this process comes to one of these points:

- 'turn': the end of a turn of the training loop; 'evaluation': a batch of an evaluation;
- 'save': the beginning of a save; 'write': a moment after Orbax has begun to write; 'verify':
  before a checkpoint is read back;
- 'start': before the process joins the others; 'compare': before settings are compared; 'open':
  before the data set is opened; 'loop': before the training loop is prepared; 'mean': before the
  mean image is read or computed; 'compile': half a second after the first step has begun to
  compile; 'end': when all is done; 'shutdown': when all processes have come to the end.

Kinds: 'kill', 'term', 'term twice', 'interrupt' (SIGINT), 'raise', 'sleep' (20 s), 'hang', 'disk'
(no file may grow), 'command' (runs the shell command 'command'). The moment is also written to
stderr, with the time, as 'fault at 12345.67'.
"""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import orbax.checkpoint as ocp
from absl import app

from alexnet_jax import main
from alexnet_jax.config import command_line
from alexnet_jax.data import sources
from alexnet_jax.processes import joining, monitor, turns
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
    elif kind == 'term twice':
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == 'interrupt':
        os.kill(os.getpid(), signal.SIGINT)
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


def act_later(seconds):
    """Acts in another thread; returns at once."""
    threading.Timer(seconds, act).start()


def act_before(owner, name, moment, action=act):
    """Replaces a function by one that acts before its n-th call."""
    method, calls = getattr(owner, name), 0

    def wrapper(*arguments, **options):
        nonlocal calls
        calls += 1
        if FAULT.get(moment) == calls:
            action()
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


def act_at_the_end():
    """Acts before this process comes to the end of all."""
    method = joining.Several.barrier

    def wrapper(self, name, *arguments):
        if name == 'the end' and FAULT.get('end'):
            act()
        return method(self, name, *arguments)

    joining.Several.barrier = wrapper


def inject():
    seconds = float(os.environ.get('LOST_SECONDS', monitor.LOST_SECONDS))
    monitor.LOST_SECONDS = monitor.UNREACHABLE_SECONDS = seconds
    act_before(turns.Turns, 'end', 'turn')
    act_in_evaluations()
    act_before(Checkpoints, 'save', 'save')
    act_before(ocp.CheckpointManager, 'save', 'write', lambda: act_later(0.05))
    act_before(Checkpoints, '_verify', 'verify')
    act_before(joining, 'join', 'start')
    act_before(joining.Several, 'compare', 'compare')
    act_before(sources, 'open_splits', 'open')
    act_before(loop.Loop, '__init__', 'loop')
    act_before(loop, 'read_or_write_inputs', 'mean')
    act_before(loop.Loop, '_place_hyperparameters', 'compile', lambda: act_later(0.5))
    act_at_the_end()
    act_before(joining.Monitor, 'close', 'shutdown')


if __name__ == '__main__':
    inject()
    sys.exit(app.run(main._run, flags_parser=command_line.parse))
