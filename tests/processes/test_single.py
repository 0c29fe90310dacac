"""Programs of one process are refused where a launcher has started them several times."""

import sys

import pytest

import runs
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.user_errors import UserError

STEP = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_ID': '0',
    'SLURM_STEP_NODELIST': 'node1',
    'SLURM_STEP_NUM_NODES': '1',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '1',
}
MESSAGE = (
    r'runs in one process.* this is process 1 of 2 \(a Slurm step of 2 tasks on 1 node\): '
    r'start it once, for example with srun --ntasks=1'
)


@pytest.fixture
def step(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures('step')
def test_one_of_several_tasks_is_refused_and_a_single_one_is_not(monkeypatch):
    with pytest.raises(UserError, match=f'alexnet_jax.evaluate {MESSAGE}'):
        refuse_several('alexnet_jax.evaluate')
    monkeypatch.setenv('JAX_NUM_PROCESSES', '1')  # as the message says
    refuse_several('alexnet_jax.evaluate')
    monkeypatch.delenv('JAX_NUM_PROCESSES')
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '1')
    monkeypatch.setenv('SLURM_PROCID', '0')
    refuse_several('alexnet_jax.evaluate')


@pytest.mark.slow
@pytest.mark.usefixtures('step')
@pytest.mark.parametrize(
    'program', ['ablations', 'sweep', 'evaluate', 'predict', 'report', 'export', 'prepare']
)
def test_each_program_of_one_process_is_refused_before_any_work(program):
    code, out, err = runs.run([sys.executable, '-m', f'alexnet_jax.{program}'])
    assert (code, out, len(err.splitlines())) == (2, '', 1)
    assert err.startswith(f'alexnet_jax: alexnet_jax.{program} runs in one process')
