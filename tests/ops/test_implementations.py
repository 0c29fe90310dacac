import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.ops import implementations
from alexnet_jax.ops.implementations import Platform, choose_backend, kernel_agrees
from alexnet_jax.processes import group
from alexnet_jax.processes.group import Group

CPU, GPU, TPU = (Platform(name) for name in ('cpu', 'gpu', 'tpu'))


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that the choice depends on."""

    platform: str
    compute_capability: str = '9.0'
    device_kind: str = 'NVIDIA H100'


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
    gpu = Platform('gpu', is_local=False, has_mosaic_gpu=True)
    assert Platform.of_devices([Device('gpu')] * 2) == gpu
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


@pytest.mark.parametrize(
    ('version', 'device', 'missing'),
    [
        ((0, 12, 0), Device('gpu', '9.0'), None),
        ((0, 12, 1), Device('gpu', '12.0'), None),
        ((0, 12, 0), Device('gpu', '8.0'), r'of compute capability 9\.0 \(Hopper\) or newer'),
        ((0, 12, 0), Device('gpu', 'gfx942'), r'of compute capability 9\.0 \(Hopper\) or newer'),
        ((0, 12, 0), Device('cpu', ''), 'an NVIDIA GPU; the program is compiled for a CPU$'),
        ((0, 12, 0), Device('tpu', ''), 'an NVIDIA GPU; the program is compiled for a TPU$'),
        ((0, 11, 2), Device('gpu', '9.0'), 'JAX 0.12 or newer; this is JAX'),
    ],
)
def test_mosaic_gpu_is_refused_where_its_compiler_would_end_the_process(
    version, device, missing, monkeypatch
):
    """Mosaic GPU is never chosen unless it is named, and only for GPUs that it compiles for."""
    monkeypatch.setattr(implementations.jax, '__version_info__', version)
    platform = Platform.of_devices([device])
    choose = functools.partial(choose_backend, platform=platform, kernel_works=lambda _: True)
    assert choose(None) in (device.platform, 'interpreted')
    if missing is None:
        assert choose('mosaic_gpu') == 'mosaic_gpu'
    else:
        with pytest.raises(ValueError, match=f"^implementation='mosaic_gpu' needs .*{missing}"):
            choose('mosaic_gpu')


@pytest.mark.parametrize(
    ('capability', 'default', 'has_mosaic_gpu'),
    [
        ('8.0', Device('gpu', '8.0', 'NVIDIA A100'), True),
        ('8.0', Device('gpu', '9.0', 'NVIDIA H100'), False),
        ('8.0', Device('cpu', '', 'cpu'), False),
        ('7.5', Device('gpu', '7.5', 'NVIDIA A100'), False),
        ('9.0', Device('cpu', '', 'cpu'), True),
    ],
)
def test_mosaic_gpu_has_ampere_only_as_the_default_device(
    capability, default, has_mosaic_gpu, monkeypatch
):
    """Otherwise JAX writes the kernel for Hopper."""
    monkeypatch.setattr(implementations.backend, 'get_default_device', lambda: default)
    platform = Platform.of_devices([Device('gpu', capability, 'NVIDIA A100')])
    assert platform.has_mosaic_gpu == has_mosaic_gpu


def test_a_kernel_for_a_device_that_is_not_attached_is_not_tried():
    def fail(x):
        raise RuntimeError('this kernel does not compile')

    assert kernel_agrees(Platform('gpu', is_local=False), 'without a kernel', fail, fail, (2,))
    assert not kernel_agrees(CPU, 'without a kernel', fail, abs, (2,))


class GroupWith(Group):
    """A group of three processes, whose other members give these answers."""

    count = 3

    def __init__(self, index, *others):
        self.index, self._others = index, others

    def gather(self, name, value, seconds=0.0):
        return [*self._others[: self.index], value, *self._others[self.index :]]


@pytest.mark.parametrize(
    ('index', 'kernel', 'others', 'warning'),
    [
        (0, jnp.abs, (True, True), ''),
        (0, jnp.abs, (True, False), 'without a kernel: it does not work in process 2'),
        (1, jnp.abs, (False, False), 'without a kernel: it does not work in processes 0, 2'),
        (1, jnp.abs, (True, False), ''),  # process 0 warns
        (1, jnp.negative, (True, True), 'without a kernel: Not equal to tolerance'),
    ],
)
def test_all_processes_use_a_kernel_or_none_does(
    index, kernel, others, warning, monkeypatch, capsys
):
    """A program that differs in one process could hang; one process says which one failed."""
    monkeypatch.setattr(group, '_group', GroupWith(index, *others))
    agrees = kernel_agrees(CPU, 'without a kernel', kernel, jnp.abs, (2,))
    assert agrees == (kernel is jnp.abs and all(others))
    err = capsys.readouterr().err
    assert warning in err if warning else err == ''
