"""A strict test bed: two CPU devices, and no implicit promotion of dtypes or ranks."""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import tempfile

# Programs that one test compiled are loaded by the next ones, in all processes of a session: those
# that pytest-xdist starts inherit the folder, and so do the runs that tests start.
if 'PYTEST_XDIST_WORKER' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='alexnet_jax_cache_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
# LLVM's optimizations take half of the time to compile a program, and save little at these sizes.
# Tests that need them ask for them: see `optimized` in nets.py and runs.py. CI runs the quick tests
# once with them.
optimizations = '' if 'CI_OPTIMIZED' in os.environ else '--xla_backend_optimization_level=0'
os.environ['XLA_FLAGS'] = optimizations
os.environ['JAX_NUM_CPU_DEVICES'] = '2'
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import pytest

import nets
import runs
from alexnet_jax.data import sources
from alexnet_jax.runtime import cpu_devices

# A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

cpu_devices.prepare_cpu_devices(tower=2)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session', autouse=True)
def _two_devices():
    assert jax.device_count() == 2, 'the tests need two devices; they must not pass with one'


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
    """A folder that all test processes of a session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder


@contextlib.contextmanager
def _lock(file):
    """Waits until no other test process is in a block with this file."""
    with file.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope='session')
def data_dir(shared_folder):
    """The folder of the data sets, with the digits, which the first test process prepares."""
    folder = str(shared_folder / 'tfds')
    with _lock(shared_folder / 'tfds.lock'):
        sources.open_splits(nets.small(dataset__data_dir=folder).dataset)
    return folder


@pytest.fixture(scope='session')
def trained_run(shared_folder, data_dir):
    """The workdir of a short run on the digits that nothing interrupted; tests only read it."""
    workdir = shared_folder / 'runs' / 'short'
    with _lock(shared_folder / 'runs.lock'):
        if not workdir.exists():
            code, _, err = runs.run(runs.command(workdir, data_dir))
            assert code == 0, err
    return workdir
