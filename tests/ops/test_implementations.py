import dataclasses

import jax
import pytest

from alexnet_jax.ops.implementations import Platform, choose_backend, kernel_agrees

CPU, GPU, TPU = (Platform(name) for name in ('cpu', 'gpu', 'tpu'))


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that the choice depends on."""

    platform: str
    compute_capability: str = '9.0'
    device_kind: str = ''


@pytest.mark.parametrize(
    ('implementation', 'platform', 'works', 'backend'),
    [
        (None, CPU, False, 'jax'),
        (None, GPU, True, 'gpu'),
        (None, TPU, True, 'tpu'),
        (None, GPU, False, 'jax'),
        ('jax', GPU, True, 'jax'),
        ('pallas', GPU, False, 'gpu'),
        ('pallas', CPU, False, 'interpreted'),
    ],
)
def test_the_platform_and_the_setting_choose_the_backend(implementation, platform, works, backend):
    assert choose_backend(implementation, platform, lambda _: works) == backend


def test_the_platform_is_that_of_the_devices():
    """A program can be compiled for a GPU on a machine that has none."""
    assert Platform.of_devices([Device('gpu')] * 2) == Platform('gpu', is_local=False)
    assert Platform.of_devices(jax.devices()) == Platform.default() == Platform('cpu')


def test_older_tpus_have_less_vector_memory():
    v4, v5e = (Platform.of_devices([Device('tpu', '', f'TPU {k}')]) for k in ('v4', 'v5 lite'))
    assert (v4.vector_memory, v5e.vector_memory) == (16, 32)


@pytest.mark.parametrize(
    ('capability', 'has_triton'), [('7.5', False), ('8.0', True), ('10.0', True), ('gfx90a', True)]
)
def test_triton_needs_an_ampere_gpu(capability, has_triton, capsys):
    platform = Platform.of_devices([Device('gpu', capability)])
    assert platform.has_triton == has_triton
    assert kernel_agrees(platform, 'without a kernel', abs, abs, (2,)) == has_triton
    warning = 'without a kernel: Triton needs an Ampere GPU'
    assert (warning in capsys.readouterr().err) != has_triton


def test_a_kernel_for_a_device_that_is_not_attached_is_not_tried():
    def fail(x):
        raise RuntimeError('this kernel does not compile')

    assert kernel_agrees(Platform('gpu', is_local=False), 'without a kernel', fail, fail, (2,))
    assert not kernel_agrees(CPU, 'without a kernel', fail, abs, (2,))
