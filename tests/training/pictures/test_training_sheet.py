import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import nets
from alexnet_jax.data import augmentation
from alexnet_jax.model import towers
from alexnet_jax.training.pictures import training_sheet
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import make_train_step

NOISE = {'augmentation__colour__noise': 'root'}


def constants(config, seed=0):
    """Returns a random mean image, and colours that move every pixel."""
    rng, size = np.random.default_rng(seed), config.dataset.image_size
    mean = rng.uniform(80, 160, (size, size, 3)).astype(np.float32)
    return augmentation.Constants(mean, 20 * np.eye(3, dtype=np.float32))


@pytest.mark.slow
def test_the_views_are_those_of_the_training_step():
    """A net whose logits are sums over its images has the loss of the views on the sheet."""
    config, mesh = nets.small(**NOISE, optimizer__batch_size=32), nets.mesh_of(2)
    data, numbers = constants(config), nets.hyperparameters(0.0, deviation=0.1)
    images = nets.batch(config)
    weights = np.random.default_rng(1).normal(size=(64 * 64 * 3, 10)).astype(np.float32) / 5000

    def apply_training(params, views_BHWC, _):
        logits = views_BHWC.reshape(len(views_BHWC), -1) @ jnp.asarray(weights)
        return logits + 0 * params['fc8']['bias'][None], {}

    step = make_train_step(config, mesh, apply_training)
    state = place_initial_state(config, mesh)
    state = state._replace(step=towers.put_replicated(mesh, np.int32(7)))
    _, metrics = step(state, towers.put_batch(mesh, images), data, numbers)

    views = training_sheet.training_views(config, images, data, 7, 0, 0.1)
    logits = views.reshape(32, -1).astype(np.float64) @ weights
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(32), images['label']].mean()
    assert float(metrics['loss']) == pytest.approx(loss, rel=1e-5)
    other = training_sheet.training_views(config, images, data, 8, 0, 0.1)
    assert not np.array_equal(views, other)


def test_the_rows_of_a_process_have_their_own_draws():
    """What the first process shows does not depend on how the batch is divided."""
    config = nets.small(**NOISE, optimizer__batch_size=16)
    images, data = nets.batch(config), constants(config)
    both = training_sheet.training_views(config, images, data, 3, 0, 0.1)
    second = {name: x[8:] for name, x in images.items()}
    np.testing.assert_array_equal(
        training_sheet.training_views(config, second, data, 3, 8, 0.1), both[8:]
    )


def test_a_picture_is_the_image_again():
    """Without crops, flips and noise, the mean that was subtracted is all that is added."""
    config = nets.small(
        augmentation__crop=72, augmentation__mirror=False, augmentation__deviations=(2.0, 3.0, 4.0)
    )
    images, data = nets.batch(config), constants(config)
    views = training_sheet.training_views(config, images, data, 0, 0, 0.0)
    assert abs(views).max() < 128
    pictures = training_sheet.as_pictures(config, views, data.mean_HWC)
    np.testing.assert_array_equal(pictures, images['image'])


def test_what_the_net_gets_beyond_white_and_black_is_cut_off():
    config = nets.small()
    views = np.full((2, 64, 64, 3), 300, np.float32)
    views[1] = -300
    pictures = training_sheet.as_pictures(config, views, constants(config).mean_HWC)
    assert (pictures[0] == 255).all()
    assert (pictures[1] == 0).all()


@pytest.mark.parametrize(('crop', 'side'), [(24, 120), (64, 128), (100, 100), (224, 128)])
def test_small_pictures_are_enlarged_without_smoothing_and_large_ones_reduced(crop, side):
    pictures = np.random.default_rng(0).integers(0, 256, (9, crop, crop, 3), np.uint8)
    sheet = training_sheet.draw_sheet(pictures, ['cat'] * 9)
    assert sheet.shape == (2 * (side + 24) + 6, 8 * (side + 6) + 6, 3)
    tile = sheet[6 : 6 + side, 6 : 6 + side]
    if side >= crop:
        zoom = side // crop
        np.testing.assert_array_equal(tile, pictures[0].repeat(zoom, 0).repeat(zoom, 1))
    below = sheet[6 + side : 6 + side + 18, 6 : 6 + side]
    assert below.min() < 100  # the name
    assert (sheet[6 + side + 24 :, side + 12 :] == 255).all()  # nine pictures: one in row two


def test_a_long_name_stays_below_its_picture():
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    sheet = training_sheet.draw_sheet(pictures, ['W' * 80, ''])
    assert (sheet[6 + 128 :, 6 + 128 :] == 255).all()


def test_a_name_that_the_font_cannot_draw_is_a_number():
    names = training_sheet.class_names(np.array([1, 0, 2, 1]), ['tabby cat', '\u732b', ' '])
    assert names == ['class 1', 'tabby cat', 'class 2', 'class 1']


def test_a_sheet_is_a_png_of_these_pixels(tmp_path):
    sheet = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    training_sheet.write(tmp_path / 'sheet.png', sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'sheet.png')), sheet)
