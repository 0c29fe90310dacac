import jax
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.user_errors import UserError


@pytest.mark.parametrize(
    ('platforms', 'error', 'message'),
    [
        ('cuda', AssertionError(), 'JAX_PLATFORMS=cuda cannot be used: it is not installed; JAX_'),
        (
            'tpu',
            RuntimeError(
                "Unable to initialize backend 'tpu': no libtpu.so (set JAX_PLATFORMS='' to choose)"
            ),
            "JAX_PLATFORMS=tpu cannot be used: Unable to initialize backend 'tpu': no libtpu.so; ",
        ),
        (None, RuntimeError('no device.\nmore'), 'the devices of this machine: no device$'),
    ],
)
def test_a_kind_of_device_that_is_not_there_is_a_mistake(monkeypatch, platforms, error, message):
    def devices():
        raise error

    monkeypatch.setattr(jax, 'devices', devices)
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', platforms)
    try:
        with pytest.raises(UserError, match=message):
            towers.choose_mesh(nets.small())
    finally:
        jax.config.update('jax_platforms', before)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('JAX_NUM_CPU_DEVICES', '0', 'JAX_NUM_CPU_DEVICES=0 must be at least 1'),
        ('JAX_NUM_CPU_DEVICES', '-3', 'JAX_NUM_CPU_DEVICES=-3 must be at least 1'),
        ('XLA_FLAGS', 'nonsense', 'XLA_FLAGS=nonsense is neither a list of --NAME=VALUE nor'),
    ],
)
def test_variables_that_would_end_jax_are_mistakes(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        cpu_devices.prepare_cpu_devices()


@pytest.mark.parametrize(
    ('tower', 'data', 'processes', 'number'),
    [
        (0, 0, 1, 2),
        (1, 1, 1, 2),
        (2, 4, 1, 8),
        (0, 0, 2, 1),  # a tower each
        (2, 2, 2, 2),
        (1, 3, 2, 2),
        (2, 4, 3, 3),
        (0, 0, 4, 1),  # at least one
    ],
)
def test_processes_create_the_devices_of_the_mesh_together(
    monkeypatch, tower, data, processes, number
):
    created = {}
    monkeypatch.setattr(jax.config, 'update', created.__setitem__)
    monkeypatch.setenv('XLA_FLAGS', '')
    monkeypatch.setenv('MALLOC_ARENA_MAX', '1')
    monkeypatch.delenv('JAX_NUM_CPU_DEVICES')
    cpu_devices.prepare_cpu_devices(tower, data, processes)
    assert created == {'jax_num_cpu_devices': number}
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '3')  # which JAX reads
    created.clear()
    cpu_devices.prepare_cpu_devices(tower, data, processes)
    assert created == {}


@pytest.mark.parametrize(
    ('platforms', 'plugins', 'expected'),
    [
        ('cpu', ['xla_cuda13'], False),
        ('cuda', [], True),
        ('cuda,cpu', ['xla_cuda13'], True),
        (None, ['xla_cuda13'], True),
        (None, [], False),
    ],
)
def test_the_heap_of_cpu_training_is_left_alone_where_there_may_be_an_accelerator(
    monkeypatch, platforms, plugins, expected
):
    """On an H100, XLA's threads waited for each other in the one heap that CPU training has."""
    calls, before = [], jax.config.jax_platforms
    monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
    monkeypatch.setattr(cpu_devices, '_keep_freed_memory', lambda: calls.append(1))
    monkeypatch.setattr(cpu_devices.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(cpu_devices.importlib.metadata, 'entry_points', lambda group: plugins)
    jax.config.update('jax_platforms', platforms)
    try:
        assert cpu_devices.may_use_accelerators() == expected
        cpu_devices.prepare_cpu_devices()
    finally:
        jax.config.update('jax_platforms', before)
    assert calls == ([] if expected else [1])
