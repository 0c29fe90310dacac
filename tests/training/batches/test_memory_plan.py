"""Whether the training images stay on the devices, by their size and the memory that there is."""

import types

import jax
import pytest

import nets
from alexnet_jax.model import memory
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.batches import memory_plan

MESH = nets.mesh_of(2)
IMAGES = 100_000  # of 72 pixels: 1.6 GB, 0.8 on each of two devices


def decide(images_left=10 * IMAGES, test_images=0, step=None, **settings):
    needs = memory_plan.Needs(IMAGES, images_left, test_images)
    return memory_plan.decide(nets.small(**settings), MESH, step, needs)


def planned_step(arguments, temporaries):
    """Returns a step for which the compiler plans so many bytes."""
    plan = types.SimpleNamespace(
        argument_size_in_bytes=arguments,
        temp_size_in_bytes=temporaries,
        output_size_in_bytes=arguments,
        alias_size_in_bytes=arguments,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: plan)
    return types.SimpleNamespace(lower=lambda *_: types.SimpleNamespace(compile=lambda: compiled))


def test_a_set_that_fits_stays_on_the_devices_and_its_size_is_told():
    decision = decide(loader__resident_gib=0.8)
    assert decision.has_training
    assert decision.line == (
        '100,000 training images stay on the devices: 778.0 MB of each of 2 devices, where '
        '859.0 MB can be used (loader.resident_gib=0.8)'
    )


def test_test_images_stay_where_they_fit_beside_the_training_images():
    decision = decide(test_images=10_000, loader__resident_gib=0.8)
    assert decision.has_training
    assert decision.has_test
    assert '100,000 training images and 10,000 test images stay' in decision.line
    assert '856.2 MB of each' in decision.line
    assert not decide(test_images=11_000, loader__resident_gib=0.8).has_test
    assert not decide(test_images=0, loader__resident_gib=0.8).has_test


def test_a_set_that_is_larger_than_the_stated_memory_is_read_by_the_loader():
    decision = decide(loader__resident_gib=0.7)
    assert not decision.has_training
    assert decision.line == (
        'the loader reads the training images in every epoch: 100,000 training images need '
        '778.0 MB of each device, and 751.6 MB can be used (loader.resident_gib=0.7)'
    )


def test_what_is_demanded_and_does_not_fit_is_refused_in_one_line():
    with pytest.raises(UserError, match=r'loader.resident=yes: .* need 778.0 MB .*: set loader'):
        decide(loader__resident='yes', loader__resident_gib=0.7)


def test_the_setting_excludes_it():
    assert decide(loader__resident='no', loader__resident_gib=9.0) == (False, False, '')


def test_images_that_are_needed_less_than_once_are_not_all_read():
    assert not decide(IMAGES - 1, loader__resident_gib=9.0).has_training
    assert decide(IMAGES - 1, loader__resident='yes', loader__resident_gib=9.0).has_training


def test_on_cpus_they_take_a_small_part_of_the_available_memory(monkeypatch):
    monkeypatch.setattr(memory, 'available_host_bytes', lambda: 13e9)
    assert decide().has_training  # 1.56 of 13 GB
    monkeypatch.setattr(memory, 'available_host_bytes', lambda: 12e9)
    assert not decide().has_training
    assert decide(loader__resident='yes').has_training


def test_on_accelerators_they_take_what_the_step_leaves(monkeypatch):
    step = planned_step(10**9, 2 * 10**9)
    monkeypatch.setattr(memory, 'device_bytes', lambda _: 4.1e9)  # a tenth is left free
    assert not decide(step=step).has_training
    monkeypatch.setattr(memory, 'device_bytes', lambda _: 4.3e9)
    assert decide(step=step).has_training
    # Evaluations of larger batches need more than a step.
    assert not decide(step=step, evaluation__batch_size=16).has_training


def test_where_the_memory_is_not_known_it_must_be_stated(monkeypatch):
    monkeypatch.setattr(memory, 'device_bytes', lambda _: float('inf'))
    assert 'the memory of the devices is not known' in decide().line
    assert decide(loader__resident_gib=9.0).has_training


def test_several_processes_read_with_the_loader(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    assert not decide().has_training
    with pytest.raises(UserError, match='only a single process'):
        decide(loader__resident='yes')
