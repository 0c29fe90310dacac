"""What a net has learned on one data set helps it on another one."""

import numpy as np
import printed_digits
import pytest
from PIL import Image
from sklearn import datasets

import nets
from alexnet_jax.config.schema import Pretrained
from alexnet_jax.model import alexnet, towers
from alexnet_jax.training import pretrained
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.workdir import Workdir

CONFIG = nets.small(optimizer__batch_size=32)
BEFORE_FC8 = tuple(CONFIG.model.layers())[:-1]


def handwritten():
    """Returns the scans of scikit-learn at the size of the run's images, and their labels."""
    scans = datasets.load_digits()
    size = (printed_digits.SIZE, printed_digits.SIZE)
    grey = (scans.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(x).resize(size)) for x in grey])
    return np.repeat(large[..., None], 3, axis=3), scans.target.astype(np.int32)


def printed(number, seed):
    """Returns digits in print, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number, dtype=np.int32) % 10
    return np.stack([np.asarray(printed_digits.draw(x, rng)) for x in labels]), labels


def train(state, images, labels, steps, rate):
    """Trains on random batches, and returns the state."""
    mesh, rng = nets.mesh_of(1), np.random.default_rng(0)
    step = nets.compiled_step(CONFIG, mesh, optimized=True)
    constants = nets.constants(float(images.mean()))
    for _ in range(steps):
        chosen = rng.integers(len(images), size=CONFIG.optimizer.batch_size)
        batch = towers.put_batch(mesh, {'image': images[chosen], 'label': labels[chosen]})
        state, _ = step(state, batch, constants, nets.hyperparameters(rate))
    return state


def top1_error(state, images, labels, mean):
    """Returns the error of the centre crop."""
    crops = images[:, 4:68, 4:68].astype(np.float32) - np.float32(mean)
    logits = nets.compiled_logits(CONFIG, nets.mesh_of(1))(state.params, crops)
    return float(np.mean(np.argmax(logits, axis=1) != labels))


@pytest.mark.slow
def test_a_fine_tuned_net_learns_from_fewer_images(tmp_path):
    """After 40 steps on 200 printed digits it knows many; random weights know next to none."""
    mesh = nets.mesh_of(1)
    state = train(place_initial_state(CONFIG, mesh), *handwritten(), steps=200, rate=0.01)
    with (
        Workdir(tmp_path / 'handwritten').claim(CONFIG, mesh) as folder,
        folder.open_checkpoints(keep=1) as checkpoints,
    ):
        checkpoints.save(state, Position(step=200))
        checkpoints.wait()
    initial, (images, labels) = alexnet.initialize(CONFIG), printed(200, seed=1)
    errors = {}
    for layers, rate in ((BEFORE_FC8, 0.003), ((), 0.01)):
        settings = Pretrained(str(tmp_path / 'handwritten'), layers)
        params = pretrained.load_layers(initial, settings)
        state = train(place_initial_state(CONFIG, mesh, params), images, labels, 40, rate)
        errors[layers] = top1_error(state, *printed(200, seed=2), images.mean())
    assert errors[BEFORE_FC8] < 0.7 < 0.8 < errors[()]


def test_printed_digits_are_the_same_each_time_and_differ_from_each_other(tmp_path):
    for name in ('a', 'b'):
        printed_digits.write_folder(tmp_path / name, images=2, test_images=1)
    files = sorted(file.relative_to(tmp_path / 'a') for file in tmp_path.glob('a/*/*/*.png'))
    assert len(files) == 30
    assert {file.parts[1] for file in files} == set('0123456789')
    pictures = [(tmp_path / 'a' / file).read_bytes() for file in files]
    assert pictures == [(tmp_path / 'b' / file).read_bytes() for file in files]
    assert len(set(pictures)) == 30
    with Image.open(tmp_path / 'a' / files[0]) as image:
        assert (image.mode, image.size) == ('RGB', (72, 72))
