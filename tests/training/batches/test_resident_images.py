"""Batches from images on the devices are those of the loader, bit by bit."""

import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.data import images, sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.loading.unreadable_images import UnreadableImages
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.batches import feeds, filling, resident_images
from alexnet_jax.training.batches.memory_plan import bytes_per_device
from alexnet_jax.training.batches.resident_images import compile_gather, make_router

SIDE = 9  # pixels: 243 bytes, which are no multiple of a word


class Noise:
    """A source of noise, with labels that tell the images apart; some of them are damaged."""

    size, classes, remedy = SIDE, ['one', 'two'], 'make them again'

    def __init__(self, length, damaged=()):
        shape = length, SIDE, SIDE, 3
        self.images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.damaged = damaged

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.damaged:
            raise images.BadImage('is damaged')
        return {'image': self.images[index], 'label': 1000 + index}

    def where(self, index):
        return f'number {index}'


def assert_same_batches(config, mesh, splits, first_step, number):
    read = feeds.Feed(config, mesh, splits, None)
    reading = loader.Reading.from_config(config)
    placed = [
        filling.fill(mesh, source, reading, kind=kind)
        for source, kind in ((splits.train, 'training'), (splits.eval, 'test'))
    ]
    resident = feeds.ResidentFeed(config, mesh, splits, None, *placed)
    items = zip(read.batches(first_step), resident.batches(first_step), strict=True)
    for item, other in itertools.islice(items, number):
        assert_same_arrays(resident.place(other), read.place(item))
    items = zip(read.test_batches(4), resident.test_batches(4), strict=True)
    for item, other in items:
        assert_same_arrays(resident.place_test(other), read.place_test(item))


def assert_same_arrays(actual, expected):
    nets.assert_equal_leaves(actual, expected)
    assert {k: x.sharding for k, x in actual.items()} == {
        k: x.sharding for k, x in expected.items()
    }


@pytest.mark.parametrize('reshuffle', [True, False])
@pytest.mark.parametrize(('tower', 'data'), [(1, 1), (2, 1), (1, 2)])
def test_batches_are_those_of_the_loader(tower, data, reshuffle):
    """Over the border between two epochs; every batch size divides neither."""
    config = nets.small(
        dataset__image_size=SIDE,
        augmentation__crop=8,
        dataset__reshuffle=reshuffle,
        optimizer__batch_size=30,
        mesh__tower=tower,
        mesh__data=data,
    )
    splits = sources.Splits(Noise(100), Noise(11), '')
    assert_same_batches(config, nets.mesh_of(tower, data), splits, 2, 3)


@pytest.mark.parametrize('tower', [1, 2])
def test_images_can_be_gathered_as_words(monkeypatch, tower):
    """As on a GPU."""
    monkeypatch.setattr(resident_images, '_IN_WORDS', {'cpu'})
    source = Noise(50)
    resident = filling.fill(nets.mesh_of(tower), source, loader.Reading(SIDE))
    indices = np.arange(50)[::-3]
    np.testing.assert_array_equal(resident.take(indices)['image'], source.images[indices])


def test_batches_are_those_of_the_loader_on_two_pairs():
    """In a process with four devices, on a mesh of two replicas with two towers each."""
    program = """
import test_resident_images as tests
import nets, numpy as np
from alexnet_jax.data import sources
from alexnet_jax.model import towers
config = nets.small(dataset__image_size=tests.SIDE, augmentation__crop=8,
                    optimizer__batch_size=40, mesh__tower=2, mesh__data=2)
mesh = towers.choose_mesh(config)
assert mesh.size == 4
tests.assert_same_batches(config, mesh, sources.Splits(tests.Noise(150), tests.Noise(11), ''), 2, 3)
"""
    folders = [str(nets.ROOT), str(nets.ROOT / 'tests'), os.path.dirname(__file__)]
    environment = os.environ | {
        'JAX_NUM_CPU_DEVICES': '4',
        'PYTHONPATH': os.pathsep.join(folders),
    }
    subprocess.run([sys.executable, '-c', program], env=environment, check=True, timeout=120)


def test_the_set_is_in_memory_once():
    """Each device holds the planned bytes, and no program for a batch makes another copy."""
    mesh, source = nets.mesh_of(2), Noise(1000)
    before = sum(x.nbytes for x in jax.live_arrays())
    resident = filling.fill(mesh, source, loader.Reading(SIDE))
    held = sum(x.nbytes for x in jax.live_arrays()) - before
    assert held == 2 * bytes_per_device(1000, SIDE, 2)
    pixels, labels = resident._arrays
    assert {shard.data.nbytes for shard in pixels.addressable_shards} == {pixels.nbytes // 2}
    router = make_router(mesh, 8)
    tables = router.route(np.arange(8))
    compiled = compile_gather(mesh, SIDE, router).lower(pixels, labels, *tables).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < pixels.nbytes / 20
    # The images and the labels go to the devices that need them, then to the pair.
    assert nets.collectives(compiled) == {'all-to-all': 2, 'all-gather': 2}
    alone = compile_gather(nets.mesh_of(1), SIDE, make_router(nets.mesh_of(1), 8))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (pixels, labels)]
    tables = make_router(nets.mesh_of(1), 8).route(np.arange(8))
    assert nets.collectives(alone.lower(*shapes, *tables).compile()) == {}


def test_an_unreadable_image_is_replaced_as_in_the_batches_of_the_loader():
    source, mesh = Noise(40, damaged=(3, 4, 39)), nets.mesh_of(2)
    unreadable = UnreadableImages(source, 3)
    resident = filling.fill(mesh, source, loader.Reading(SIDE), unreadable)
    batch = resident.take(np.arange(40))
    expected = np.arange(1000, 1040)
    expected[[3, 4, 39]] = 1005, 1005, 1000
    np.testing.assert_array_equal(batch['label'], expected)
    np.testing.assert_array_equal(batch['image'], source.images[expected - 1000])
    assert unreadable.names == ['number 3', 'number 4', 'number 39']
    with pytest.raises(UserError, match=r'number 3 is damaged: make them again, or leave out'):
        filling.fill(mesh, source, loader.Reading(SIDE), UnreadableImages(source, 0))


def test_a_signal_ends_the_reading():
    with signals.StopSignal() as stop:
        stop.signal = 'SIGTERM'
        with pytest.raises(signals.Stopped):
            filling.fill(nets.mesh_of(1), Noise(40), loader.Reading(SIDE))
