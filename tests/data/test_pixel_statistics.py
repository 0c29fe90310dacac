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


@pytest.mark.parametrize('size', [3, 64, 256])
def test_sums_are_exact_integers_of_any_size(size):
    """Also where the pixels of an image are more than a block, and all are white."""
    images = np.random.default_rng(size).integers(0, 256, (3, size, size, 3), np.uint8)
    images[2] = 255
    sums = pixel_statistics.Sums.zeros(size)
    for image in images:
        sums.add(image)
    pixels = images.reshape(-1, 3).astype(np.int64)
    np.testing.assert_array_equal(sums.products, np.einsum('ni,nj->ij', pixels, pixels))
    np.testing.assert_array_equal(sums.pixels_HWC, images.sum(0, dtype=np.int64))


def test_no_product_is_long_enough_for_the_threads_of_openblas():
    """It computes up to 10,000 numbers in the calling thread (interface/dot.c, ddot)."""
    sums = pixel_statistics.Sums.zeros(256)
    assert {len(colour) for colour in sums._blocks} == {8}
    assert max(len(block) for colour in sums._blocks for block in colour) <= 10_000


def test_a_damaged_byte_is_never_used(tmp_path):
    """Any byte of the file may be damaged: it is refused, or the sums are the same."""
    file = tmp_path / 'sums.npz'
    sums = pixel_statistics.Sums.zeros(4)
    for image in IMAGES[:, :4, :4]:
        sums.add(image)
    sums.save(file)
    whole, reasons = file.read_bytes(), []
    for at in range(0, len(whole), 3):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        try:
            loaded = pixel_statistics.Sums.load(file)
        except UserError as error:
            reasons.append(str(error))
            continue
        assert (loaded.images, loaded.left_out) == (7, 0)
        np.testing.assert_array_equal(loaded.pixels_HWC, sums.pixels_HWC)
        np.testing.assert_array_equal(loaded.products, sums.products)
    assert len(reasons) > len(whole) / 6
    assert all('is damaged' in reason for reason in reasons)


def test_parts_of_a_data_set_have_files_of_their_own(tmp_path):
    splits = ['train', 'train[:50%]', 'train[-50:]', 'train[50%:]', 'train+test', 'train_test']
    splits.append('+'.join(f'train[{i}%:{i + 1}%]' for i in range(60)))
    files = [pixel_statistics.statistics_file(tmp_path, split, 16) for split in splits]
    assert len(set(files)) == len(splits)
    assert files[0].name == 'statistics_train_16.npz'
    assert all(len(file.name) < 120 for file in files)
