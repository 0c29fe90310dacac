import dataclasses

import numpy as np
import pytest

from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import inputs_file
from alexnet_jax.training.run_files.inputs_file import Inputs

MEAN = np.random.default_rng(0).uniform(0, 255, (6, 6, 3)).astype(np.float32)
INPUTS = Inputs(MEAN, COLOURS_2012, ('n01440764', 'Müll', '=1+1'), ('tench', '', 'a formula'))


def read(file, size=6, classes=3):
    return inputs_file.read(file, size, classes, 'train again')


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    inputs_file.write(tmp_path / 'inputs.npz', INPUTS)
    inputs = read(tmp_path / 'inputs.npz')
    np.testing.assert_array_equal(inputs.mean_HWC, MEAN, strict=True)
    for name in ('mean', 'eigenvalues', 'eigenvectors'):
        expected = getattr(COLOURS_2012, name)
        np.testing.assert_array_equal(getattr(inputs.colours, name), expected, strict=True)
    assert (inputs.classes, inputs.descriptions) == (INPUTS.classes, INPUTS.descriptions)


def test_a_missing_file_is_no_error(tmp_path):
    """Runs of earlier versions have none."""
    assert read(tmp_path / 'inputs.npz') is None
    assert read(tmp_path / 'nowhere' / 'inputs.npz') is None


def test_a_folder_in_its_place_is_told(tmp_path):
    (tmp_path / 'inputs.npz').mkdir()
    with pytest.raises(UserError, match=r'inputs.npz is a folder: move it elsewhere; then train'):
        read(tmp_path / 'inputs.npz')


def test_no_flipped_bit_is_believed(tmp_path):
    """Each one in the contents is noticed; one in a header that nobody uses changes nothing."""
    file = tmp_path / 'inputs.npz'
    inputs_file.write(file, INPUTS)
    data = file.read_bytes()
    damages = 0
    for position in range(0, len(data), 7):
        file.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            inputs = read(file)
        except UserError as error:
            assert 'is damaged (' in str(error)  # noqa: PT017
            assert str(error).endswith(': move it elsewhere; then train again')  # noqa: PT017
            damages += 1
        else:
            np.testing.assert_array_equal(inputs.mean_HWC, MEAN)
            assert inputs.classes == INPUTS.classes
    assert damages > 0.7 * len(data) / 7


@pytest.mark.parametrize(
    ('size', 'classes', 'reason'),
    [(7, 3, 'a mean image of 6 pixels, not of 7'), (6, 4, '3 classes, not 4')],
)
def test_a_file_of_another_net_is_refused(tmp_path, size, classes, reason):
    inputs_file.write(tmp_path / 'inputs.npz', INPUTS)
    with pytest.raises(UserError, match=reason):
        read(tmp_path / 'inputs.npz', size, classes)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'mean_HWC': MEAN[:5]}, r'the mean image is \(5, 6, 3\) float32'),
        ({'mean_HWC': MEAN.astype(np.float64)}, r'the mean image is \(6, 6, 3\) float64'),
        ({'mean_HWC': np.full_like(MEAN, np.nan)}, 'a value is not finite'),
        ({'classes': ('a', 'b')}, '2 classes and 3 descriptions'),
        ({'classes': ('a', 'b', 'a')}, 'two classes have the same name'),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(INPUTS, **changes)
