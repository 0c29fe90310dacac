"""A strict test bed: two CPU devices, and no implicit promotion of dtypes or ranks."""

import atexit
import os
import shutil
import tempfile

# Many tests start training runs: a program that one test compiled is reused by all later ones.
os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='alexnet_jax_cache_')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ['JAX_NUM_CPU_DEVICES'] = '2'
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import pytest

from alexnet_jax.runtime import cpu_devices

cpu_devices.prepare_cpu_devices(tower=2)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session', autouse=True)
def _two_devices():
    assert jax.device_count() == 2, 'the tests need two devices; they must not pass with one'


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    """Returns the folder where the tests keep the digits, which are prepared once."""
    return str(tmp_path_factory.mktemp('tfds'))
