import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.data import augmentation, pixel_statistics

SIZE, CROP = 12, 8


def settings(noise='none', divide=False, **changes):
    """Returns the paper's augmentation with crops of 8 and these changes."""
    paper = dataclasses.replace(nets.full().augmentation, **dict(crop=CROP, positions=0) | changes)
    colour = dataclasses.replace(paper.colour, noise=noise, divide=divide)
    return dataclasses.replace(paper, colour=colour)


def constants_of(own, size, sums):
    return augmentation.constants(own, *augmentation.choose_statistics(own, size, sums))


def coordinates(images):
    """Returns images whose pixel at (row, column) is (row, column, number of the image)."""
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
    own = settings(mirror=mirror)
    draw = augmentation.draw_views(jax.random.key(seed), images, SIZE, own)
    constants = augmentation.Constants(mean, jnp.eye(3))
    return np.asarray(augmentation.random_views(coordinates(images), constants, draw, own))


def test_all_positions_are_equally_probable():
    corners = views(mirror=False)[:, 0, 0, :2].astype(int)
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(corners.T), 1)
    # 25 positions, 80 draws each: chi squared of 24 degrees of freedom is above 51 once in 1,000.
    assert ((counts - 80) ** 2 / 80).sum() < 51


def test_crops_by_products_are_those_of_slices():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 21, SIZE, 3), np.uint8)
    draw = augmentation.draw_views(jax.random.key(0), 50, SIZE, settings())
    assert 0 < draw.mirrored.sum() < 50
    arguments = (pixels, draw.top, draw.left, draw.mirrored)
    views = augmentation._crop_by_products(arguments, CROP)
    assert views.dtype == jnp.uint8
    for view, image, *place in zip(views, *arguments, strict=True):
        top, left, mirrored = map(int, place)
        expected = image[top : top + CROP, left : left + CROP]
        np.testing.assert_array_equal(view, expected[:, ::-1] if mirrored else expected)


def test_half_of_the_images_are_flipped_horizontally():
    columns = views()[:, 0, :, 1]
    step = columns[:, 1] - columns[:, 0]
    assert set(step) == {-1.0, 1.0}
    assert np.mean(step < 0) == pytest.approx(0.5, abs=0.05)
    rows = views()[:, :, 0, 0]
    assert set(rows[:, 1] - rows[:, 0]) == {1.0}  # no vertical flips


def test_without_mirror_no_image_is_flipped():
    columns = views(mirror=False)[:, 0, :, 1]
    assert set(columns[:, 1] - columns[:, 0]) == {1.0}


def test_another_key_gives_other_views():
    assert np.mean(views(10, seed=1) == views(10)) < 1


def test_the_centre_of_the_mean_image_is_subtracted_wherever_the_crop_is():
    mean = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)), jnp.float32)
    difference = views() - views(mean=mean)
    np.testing.assert_allclose(
        difference, np.broadcast_to(mean[2:10, 2:10], difference.shape), atol=1e-4
    )


def test_ten_views_are_five_crops_and_their_flips():
    ten = augmentation.test_views(256, 224, mirror=True)
    places = [(v.top, v.left) for v in ten]
    assert places == [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)] * 2
    assert [v.mirrored for v in ten] == [False] * 5 + [True] * 5
    assert augmentation.test_views(256, 224, mirror=False) == ten[:5]


def test_a_view_is_cropped_at_its_position():
    x, mean = coordinates(1), jnp.zeros((SIZE, SIZE, 3))
    plain = augmentation.take_view(x, mean, CROP, jnp.int32(4), jnp.int32(0), False)
    np.testing.assert_array_equal(plain[0], x[0, 4:, :8])
    mirrored = augmentation.take_view(x, mean, CROP, jnp.int32(4), jnp.int32(0), True)
    np.testing.assert_array_equal(mirrored[0], x[0, 4:, 7::-1][:, :8])


def test_consecutive_images_share_a_draw():
    """2012: the same position and flip for 32 consecutive images, others for the next 32."""
    own = settings(images_per_draw=32)
    draw = augmentation.draw_views(jax.random.key(0), 100, SIZE, own)
    for field in (draw.top, draw.left, draw.mirrored):
        chunks = [np.asarray(field[i : i + 32]) for i in range(0, 100, 32)]
        assert all(len(set(chunk.tolist())) == 1 for chunk in chunks)
    places = {(int(t), int(x)) for t, x in zip(draw.top, draw.left, strict=True)}
    assert len(places) > 1


def test_a_draw_for_several_images_needs_no_scatter():
    """`jnp.repeat` with `total_repeat_length` would be a scatter and a cumulative sum."""
    for images_per_draw in (1, 3):
        augment = settings(images_per_draw=images_per_draw)
        draw = functools.partial(augmentation.draw_views, images=10, size=SIZE, settings=augment)
        assert 'scatter' not in jax.jit(draw).lower(jax.random.key(0)).as_text()


def test_all_33_by_33_positions_of_the_paper_occur():
    draw = augmentation.draw_views(jax.random.key(0), 20_000, 256, settings(crop=224))
    places = set(zip(np.asarray(draw.top).tolist(), np.asarray(draw.left).tolist(), strict=True))
    assert len(places) == 33 * 33
    assert max(places) == (32, 32)


@pytest.mark.parametrize(
    ('positions', 'expected'), [(32, range(32)), (1, [16]), (3, range(15, 18))]
)
def test_fewer_positions_are_the_central_ones(positions, expected):
    """The paper's "factor of 2048" is 32 x 32 positions and flips; a single one is the centre."""
    draw = augmentation.draw_views(
        jax.random.key(0), 5_000, 256, settings(crop=224, positions=positions)
    )
    assert set(np.asarray(draw.top).tolist()) == set(np.asarray(draw.left).tolist()) == {*expected}


def sums_of_colours(covariance, images=8, size=64):
    """Returns statistics of images whose pixels have about this covariance and a mean of 128."""
    rng = np.random.default_rng(0)
    pixels = rng.multivariate_normal([128] * 3, covariance, (images, size, size))
    sums = pixel_statistics.Sums.zeros(size)
    for image in np.clip(np.round(pixels), 0, 255).astype(np.uint8):
        sums.add(image)
    return sums


COVARIANCE = np.array([[900.0, 600, 300], [600, 800, 350], [300, 350, 500]])


@pytest.mark.parametrize('noise', ['root', 'eigenvalue'])
def test_colour_noise_has_the_specified_covariance(noise):
    """It is constant over an image and has a mean of zero.

    With the roots of the eigenvalues (2012) its covariance is 0.01 times that of the data.
    """
    own, sums = settings(noise), sums_of_colours(COVARIANCE)
    mean = np.zeros((SIZE, SIZE, 3), np.float32)
    constants = constants_of(own, 64, sums)._replace(mean_HWC=mean)
    draw = augmentation.draw_views(jax.random.key(1), 20_000, SIZE, own)
    x = np.full((1, SIZE, SIZE, 3), 100, np.uint8)
    noiseless = augmentation.random_views(
        x, constants, jax.tree.map(lambda d: d[:1], draw), own, 0.0
    )
    difference = np.asarray(
        augmentation.random_views(np.repeat(x, 20_000, 0), constants, draw, own, 0.1)
    ) - np.asarray(noiseless)
    assert np.ptp(difference, axis=(1, 2)).max() < 1e-4
    noise_B3 = difference[:, 0, 0]
    colours = sums.colours
    scale = colours.eigenvalues if noise == 'root' else (colours.eigenvalues / 255) ** 2
    expected = 0.01 * (colours.eigenvectors * scale) @ colours.eigenvectors.T
    spread = np.sqrt(np.diag(expected))
    assert np.all(np.abs(noise_B3.mean(0)) < 4 * spread / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(noise_B3.T), expected, atol=0.04 * spread.max() ** 2)
    if noise == 'root':
        np.testing.assert_allclose(expected, 0.01 * COVARIANCE, rtol=0.03)


def test_an_image_with_noise_is_divided_as_in_2012():
    """It is divided by 1.1 while there is noise, and by nothing once there is none."""
    own = settings('root')
    divided = settings('root', divide=True)
    sums = sums_of_colours(COVARIANCE)
    mean = np.zeros((SIZE, SIZE, 3), np.float32)
    constants = constants_of(own, 64, sums)._replace(mean_HWC=mean)
    draw = augmentation.draw_views(jax.random.key(1), 4, SIZE, own)
    x = coordinates(4)
    for deviation in (0.1, 0.0):
        plain = augmentation.random_views(x, constants, draw, own, deviation)
        np.testing.assert_allclose(
            augmentation.random_views(x, constants, draw, divided, deviation),
            np.asarray(plain) / np.float32(1 + deviation),
            rtol=1e-6,
        )


def test_the_constants_of_2012():
    """cuda-convnet2: make-data/input_meta; standard deviations 19.7, 37.1 and 121.8."""
    own = settings('root', mean='colour', constants='2012')
    constants = constants_of(own, 4, None)
    assert constants.mean_HWC.shape == (4, 4, 3)
    np.testing.assert_allclose(constants.mean_HWC[1, 2], [127.30, 119.72, 104.91], rtol=1e-6)
    lengths = np.linalg.norm(constants.colours, axis=0)
    np.testing.assert_allclose(lengths, [19.720833, 37.093889, 121.780061], rtol=1e-4)
    vectors = constants.colours / lengths
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-4)


def test_colours_are_divided_by_their_deviations_after_the_noise():
    own = settings('root', divide=True)
    divided = dataclasses.replace(own, deviations=(2.0, 4.0, 0.5))
    constants = constants_of(own, SIZE, sums_of_colours(COVARIANCE, size=SIZE))
    draw = augmentation.draw_views(jax.random.key(1), 4, SIZE, own)
    views = [
        np.asarray(augmentation.random_views(coordinates(4), constants, draw, x, 0.1))
        for x in (own, divided)
    ]
    np.testing.assert_array_equal(views[1], views[0] / np.float32([2, 4, 0.5]))


def test_torchvisions_constants_are_its_transform():
    """By its documentation: rescaled to [0.0, 1.0], minus the mean, divided by the deviation."""
    own = settings(mean='colour', constants='torchvision')
    constants = constants_of(own, SIZE, None)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    x = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    expected = (x / 255 - mean) / deviation
    deviations = (58.395, 57.12, 57.375)
    place = (jnp.int32(0), jnp.int32(0), False)
    view = augmentation.take_view(x, constants.mean_HWC, SIZE, *place, deviations)
    np.testing.assert_allclose(view, expected, rtol=1e-5, atol=1e-5)


def test_one_mean_colour_in_place_of_the_mean_image():
    sums = sums_of_colours(COVARIANCE)
    constants = constants_of(settings(mean='colour'), 64, sums)
    np.testing.assert_allclose(constants.mean_HWC[5, 7], sums.mean_image.mean((0, 1)), rtol=1e-5)
    assert np.ptp(constants.mean_HWC, axis=(0, 1)).max() == 0


def test_draws_and_views_are_the_same_where_jax_computes_with_64_bits():
    own, mean = settings('root'), np.zeros((SIZE, SIZE, 3), np.float32)
    constants = augmentation.Constants(mean, np.eye(3, dtype=np.float32))

    def draw_and_view():
        draw = augmentation.draw_views(jax.random.key(0), 50, SIZE, own)
        deviation = jnp.float32(0.1)
        return draw, augmentation.random_views(coordinates(50), constants, draw, own, deviation)

    expected = draw_and_view()
    with jax.enable_x64(True):
        results = draw_and_view()
    nets.assert_equal_leaves(results, expected)
