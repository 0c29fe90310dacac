import numpy as np
import pytest

from alexnet_jax.data import pixel_statistics
from alexnet_jax.runtime.user_errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 16, 16, 3), np.uint8)
IMAGES[..., 1] = IMAGES[..., 1] // 4 + IMAGES[..., 0] // 2  # correlated colours


def sums_of(images):
    sums = pixel_statistics.Sums.zeros(16)
    for image in images:
        sums.add(image)
    return sums


def test_statistics_are_those_of_the_pixels():
    sums = sums_of(IMAGES)
    np.testing.assert_allclose(sums.mean_image, IMAGES.mean(0), rtol=1e-6)
    assert sums.mean_image.dtype == np.float32
    pixels = IMAGES.reshape(-1, 3).astype(float)
    colours = sums.colours
    np.testing.assert_allclose(colours.mean, pixels.mean(0))
    covariance = (colours.eigenvectors * colours.eigenvalues) @ colours.eigenvectors.T
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True), rtol=1e-9)
    assert np.all(np.diff(colours.eigenvalues) > 0)


def test_sums_of_parts_add_up_exactly():
    """They are the same integers in any order and for any division."""
    parts = [sums_of(IMAGES[:3]), sums_of(IMAGES[3:4]), sums_of(IMAGES[4:])]
    total = pixel_statistics.Sums.zeros(16)
    for part in reversed(parts):
        total.merge(part)
    expected = sums_of(IMAGES)
    assert total.images == expected.images
    np.testing.assert_array_equal(total.pixels_HWC, expected.pixels_HWC)
    np.testing.assert_array_equal(total.products, expected.products)


def test_a_saved_file_is_loaded_and_a_damaged_one_named(tmp_path):
    file = pixel_statistics.statistics_file(tmp_path, 'train[:50%]', 16)
    assert file != pixel_statistics.statistics_file(tmp_path, 'train', 16)
    sums_of(IMAGES).save(file)
    loaded = pixel_statistics.Sums.load(file)
    np.testing.assert_array_equal(loaded.products, sums_of(IMAGES).products)
    assert list(tmp_path.iterdir()) == [file]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match='is damaged'):
        pixel_statistics.Sums.load(file)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r'cannot write .*none/file\.npz'):
        sums_of(IMAGES).save(tmp_path / 'none' / 'file.npz')


def test_the_colours_of_2012_are_orthonormal():
    vectors = pixel_statistics.COLOURS_2012.eigenvectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-4)
    variance = pixel_statistics.COLOURS_2012.eigenvalues.sum() / 3
    assert np.sqrt(variance) == pytest.approx(74.4, abs=0.1)
