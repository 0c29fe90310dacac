import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import augmentation

SIZE, CROP = 12, 8


def coordinates(images):
    """Images whose pixel at (row, column) is (row, column, number of the image)."""
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing='ij'), -1)
    number = np.arange(images)[:, None, None, None] % 256
    return np.concatenate(
        [
            np.broadcast_to(grid, (images, SIZE, SIZE, 2)),
            np.broadcast_to(number, (images, SIZE, SIZE, 1)),
        ],
        -1,
    ).astype(np.uint8)


def views(images=2000, mirror=True, seed=0, mean=None):
    mean = jnp.zeros((SIZE, SIZE, 3)) if mean is None else mean
    draw = augmentation.draw_views(jax.random.key(seed), images, SIZE - CROP + 1, mirror)
    return np.asarray(augmentation.random_views(coordinates(images), mean, draw, CROP))


def test_all_positions_are_equally_probable():
    corners = views(mirror=False)[:, 0, 0, :2].astype(int)
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(corners.T), 1)
    # 25 positions, 80 draws each: chi squared of 24 degrees of freedom is above 51 once in 1,000.
    assert ((counts - 80) ** 2 / 80).sum() < 51


def test_half_are_mirrored():
    columns = views()[:, 0, :, 1]
    step = columns[:, 1] - columns[:, 0]
    assert set(step) == {-1.0, 1.0}
    assert np.mean(step < 0) == pytest.approx(0.5, abs=0.05)
    rows = views()[:, :, 0, 0]
    assert set(rows[:, 1] - rows[:, 0]) == {1.0}  # never upside down


def test_without_mirror_none_are():
    columns = views(mirror=False)[:, 0, :, 1]
    assert set(columns[:, 1] - columns[:, 0]) == {1.0}


def test_every_step_draws_anew():
    assert np.mean(views(10, seed=1) == views(10)) < 1


def test_the_mean_images_centre_is_subtracted_wherever_the_crop_was():
    mean = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)), jnp.float32)
    difference = views() - views(mean=mean)
    np.testing.assert_allclose(
        difference, np.broadcast_to(mean[2:10, 2:10], difference.shape), atol=1e-4
    )


def test_ten_views_are_five_places_and_their_reflections():
    ten = augmentation.test_views(256, 224, mirror=True)
    places = [(v.top, v.left) for v in ten]
    assert places == [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)] * 2
    assert [v.mirrored for v in ten] == [False] * 5 + [True] * 5
    assert augmentation.test_views(256, 224, mirror=False) == ten[:5]


def test_a_view_is_cut_where_it_says():
    x, mean = coordinates(1), jnp.zeros((SIZE, SIZE, 3))
    plain = augmentation.take_view(x, mean, CROP, jnp.int32(4), jnp.int32(0), False)
    np.testing.assert_array_equal(plain[0], x[0, 4:, :8])
    mirrored = augmentation.take_view(x, mean, CROP, jnp.int32(4), jnp.int32(0), True)
    np.testing.assert_array_equal(mirrored[0], x[0, 4:, 7::-1][:, :8])
