"""The devices of a machine are divided evenly among the workers of a study."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from alexnet_jax.evaluation.studies import workers
from alexnet_jax.evaluation.studies.workers import Worker, divide
from alexnet_jax.runtime.user_errors import UserError

pytestmark = pytest.mark.skipif(
    not hasattr(os, 'sched_setaffinity'), reason='this system does not restrict processes to cores'
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns a function that sets the number of cores and GPUs of this machine."""

    def set_devices(cores, gpus=0, **environment):
        plugin = importlib.metadata.EntryPoint(
            'xla_cuda13', 'jax_plugins.xla_cuda13', 'jax_plugins'
        )
        program = tmp_path / 'nvidia-smi'
        lines = [f'GPU {i}: NVIDIA H100 (UUID: GPU-{i})' for i in range(gpus)]
        program.write_text('#!/bin/sh\n' + ''.join(f'echo "{line}"\n' for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        monkeypatch.setattr(
            importlib.metadata, 'entry_points', lambda group: [plugin][: bool(gpus)]
        )
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)))
        monkeypatch.setattr(workers, '_place_of_core', lambda core: (0, core % (cores // 2), core))
        for name in ('JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES'):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_devices


def test_gpus_and_cores_are_disjoint_and_equal_in_number(machine):
    machine(cores=8, gpus=4)
    # The cores n and n + 4 are hyper-threads of one.
    assert divide(2) == [Worker(1, ('0', '1'), (0, 4, 1, 5)), Worker(2, ('2', '3'), (2, 6, 3, 7))]
    assert [worker.cores for worker in divide(4)] == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_cores_that_are_left_over_are_not_used(machine):
    """Otherwise two seeds of one row would have different numbers of cores."""
    machine(cores=8)
    assert [len(worker.cores) for worker in divide(3)] == [2, 2, 2]


def test_one_worker_has_all_devices_as_before(machine):
    machine(cores=8, gpus=4)
    assert divide(1) == [Worker(1)]


@pytest.mark.parametrize(
    ('visible', 'expected'), [('3,1', ['3', '1']), ('MIG-a, MIG-b,-1,0', ['MIG-a', 'MIG-b'])]
)
def test_only_visible_gpus_are_divided(machine, visible, expected):
    machine(cores=4, gpus=8, CUDA_VISIBLE_DEVICES=visible)
    assert [','.join(worker.gpus) for worker in divide(2)] == expected


@pytest.mark.parametrize('environment', [{'JAX_PLATFORMS': 'cpu'}, {'CUDA_VISIBLE_DEVICES': ''}])
def test_runs_on_the_cpu_get_no_gpus(machine, environment):
    machine(cores=4, gpus=3, **environment)
    assert [worker.gpus for worker in divide(2)] == [(), ()]


@pytest.mark.parametrize(
    ('number', 'gpus', 'environment', 'message'),
    [
        (3, 8, {}, '--parallel=3 does not divide 8 GPUs evenly: use 1, 2, 4 or 8'),
        (2, 1, {}, '--parallel=2 does not divide 1 GPU evenly: use 1'),
        (5, 0, {}, '--parallel=5 is too many for 4 processor cores: use at most 4'),
        (2, 0, {'JAX_PLATFORMS': 'tpu'}, 'not JAX_PLATFORMS=tpu: leave out --parallel'),
    ],
)
def test_what_does_not_fit_is_a_mistake(machine, number, gpus, environment, message):
    machine(cores=4, gpus=gpus, **environment)
    with pytest.raises(UserError, match=message):
        divide(number)


def test_a_process_has_the_devices_of_its_worker():
    """And the study itself keeps all cores."""
    before = os.sched_getaffinity(0)
    worker = Worker(1, ('2', '5'), (min(before),))
    source = 'import os; print(os.sched_getaffinity(0), os.environ["CUDA_VISIBLE_DEVICES"])'
    with worker.start([sys.executable, '-c', source], stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=30)
    assert out == f'{{{min(before)}}} 2,5\n'
    assert os.sched_getaffinity(0) == before
