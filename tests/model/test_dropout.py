import jax
import numpy as np

from alexnet_jax.model import dropout


def test_masks_are_the_same_where_jax_computes_with_64_bits(monkeypatch):
    monkeypatch.setattr(dropout, 'own_part', lambda x: x)  # outside of a mesh
    masks = dropout.Masks(jax.random.key(0), 8)
    expected = masks.draw(6, 2, 100, 0.5)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(masks.draw(6, 2, 100, 0.5), expected)
    assert 0.4 < expected.mean() < 0.6
