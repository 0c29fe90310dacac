"""The options that a program is compiled with, and what they mean on a device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.runtime.compilation import compile_program, describe_arithmetic

H100 = SimpleNamespace(platform='gpu', compute_capability='9.0')
V100 = SimpleNamespace(platform='gpu', compute_capability='7.0')
MI300 = SimpleNamespace(platform='gpu', compute_capability='gfx942')
TPU = SimpleNamespace(platform='tpu')
CPU = SimpleNamespace(platform='cpu')


def options(device, deterministic, folder):
    """Returns XLA's options for a program, as XLA itself writes them; only those of GPUs.

    Any back end takes them, so that this needs no GPU.
    """
    program = compile_program(jnp.sin, device, 'default', deterministic)
    lowered = program.lower(jax.ShapeDtypeStruct((2,), jnp.float32))
    lowered.compile(compiler_options={'xla_dump_to': str(folder)})
    (file,) = folder.glob('*debug_options')
    return {line for line in file.read_text().splitlines() if line.startswith('xla_gpu_')}


def test_deterministic_options_are_those_of_gpus_alone(tmp_path, monkeypatch):
    """XLA's files leave out options with their default values, of which '' is one."""
    monkeypatch.setenv('XLA_FLAGS', '')
    expected = {'xla_gpu_deterministic_ops: true', 'xla_gpu_enable_triton_gemm: false'}
    assert expected <= options(H100, True, tmp_path / 'gpu')
    for name, device in {'cpu': CPU, 'tpu': TPU}.items():
        assert not expected & options(device, True, tmp_path / name)
    assert not expected & options(H100, False, tmp_path / 'other')


def test_measurements_of_other_programs_are_not_used(tmp_path, monkeypatch):
    """XLA would take them from the folder that JAX names, and another start may not have it."""

    def measurements(deterministic, folder):
        return [x for x in options(H100, deterministic, tmp_path / folder) if 'autotune_cache' in x]

    monkeypatch.setenv('XLA_FLAGS', '')
    assert jax.config.jax_compilation_cache_dir  # of all tests
    assert any('per_fusion_autotune_cache_dir' in x for x in measurements(False, 'measured'))
    assert not any('per_fusion_autotune_cache_dir' in x for x in measurements(True, 'first'))


@pytest.mark.parametrize(
    ('device', 'dtype', 'precision', 'expected'),
    [
        (H100, 'float32', 'default', 'float32, products in TF32, deterministic operations'),
        (H100, 'float32', 'highest', 'float32, deterministic operations'),
        (H100, 'bfloat16', 'default', 'bfloat16, deterministic operations'),
        (V100, 'float32', 'default', 'float32, deterministic operations'),
        (MI300, 'float32', 'default', 'float32, deterministic operations'),
        (TPU, 'float32', 'default', 'float32, products in bfloat16'),
        (TPU, 'float32', 'highest', 'float32'),
        (CPU, 'float32', 'default', 'float32'),
        (CPU, 'bfloat16', 'highest', 'bfloat16'),
    ],
)
def test_the_arithmetic_is_described(device, dtype, precision, expected):
    assert describe_arithmetic(device, dtype, precision, deterministic=True) == expected
    plain = expected.removesuffix(', deterministic operations')
    assert describe_arithmetic(device, dtype, precision, deterministic=False) == plain
