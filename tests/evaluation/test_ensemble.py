import numpy as np
import pytest

import nets
from alexnet_jax.evaluation import ensemble, error_rates


def net(labels, seed, sharpness, noise=1.0):
    """Returns a log softmax that favours the labels by `sharpness` in the logits; 0: noise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, noise, (len(labels), 10))
    logits[np.arange(len(labels)), labels] += sharpness
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def ranked(log_p, labels):
    errors = error_rates.errors(log_p, labels)
    return errors.top5, errors.top1, errors.loss


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(10, size=400).astype(np.int32)


def test_the_mean_is_taken_over_probabilities():
    one, other = nets.log([[0.9, 0.1], [0.2, 0.8]]), nets.log([[0.5, 0.5], [0.6, 0.4]])
    mean, weighted = ensemble.mean([one, other]), ensemble.mean([one, other], [0.25, 0.75])
    np.testing.assert_allclose(np.exp(mean), [[0.7, 0.3], [0.4, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(weighted), [[0.6, 0.4], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(ensemble.mean([one]), one)


def test_small_probabilities_keep_their_order():
    """As probabilities, all but the first would be 0."""
    one, other = np.float32([[0, -2000, -3000, -9000]]), np.float32([[0, -4000, -1000, -9000]])
    assert np.argsort(-ensemble.mean([one, other])).tolist() == [[0, 2, 1, 3]]
    np.testing.assert_array_equal(ensemble.mean([one, other], [1.0, 0.0])[0, :2], one[0, :2])


def test_nan_stays_nan_and_probability_zero_stays_zero():
    one = np.float32([[0, -np.inf], [-1, -1], [np.nan, np.nan]])
    mean = ensemble.mean([one, one])
    np.testing.assert_array_equal(mean[0], one[0])
    assert np.isnan(mean[2]).all()
    assert np.isfinite(mean[1]).all()


def test_the_order_of_nets_does_not_matter(labels):
    outputs = [net(labels, seed, 2.0) for seed in range(3)]
    np.testing.assert_allclose(ensemble.mean(outputs), ensemble.mean(outputs[::-1]), rtol=1e-6)


def test_halves_share_every_class_and_no_image():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [7, 2, 1, 11, 20]))
    one, other = ensemble.halves(labels)
    assert sorted([*one, *other]) == list(range(41))
    counts = [np.bincount(labels[half], minlength=5) for half in (one, other)]
    assert abs(counts[0] - counts[1]).max() <= 1
    assert abs(len(one) - len(other)) <= 1
    assert (np.diff(one) > 0).all()


def test_tuned_weights_are_never_worse_on_the_images_of_the_tuning(labels):
    for seed in range(4):
        outputs = [net(labels, 10 * seed + i, sharpness) for i, sharpness in enumerate((0.5, 1, 2))]
        weights = ensemble.tune(outputs, labels)
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
        tuned = ranked(ensemble.mean(outputs, weights), labels)
        assert tuned < ranked(ensemble.mean(outputs), labels)
        assert all(tuned <= ranked(log_p, labels) for log_p in outputs)


def test_a_net_that_gives_noise_gets_no_weight():
    labels = np.random.default_rng(0).integers(10, size=4000).astype(np.int32)
    for seed in (0, 10, 20):
        noise = net(labels, seed, 0.0, noise=4.0)
        outputs = [net(labels, seed + 1, 2.0), noise, net(labels, seed + 2, 2.0)]
        weights = ensemble.tune(outputs, labels)
        assert weights[1] <= 0.02
        assert min(weights[0], weights[2]) > 0.2


def test_top5_counts_before_top1_and_both_before_the_loss():
    """Two images with label 0: one net has it in the top 5 twice, the other in the top 1 once."""
    labels = np.int32([0, 0])
    among = nets.log([[0.2, 0.6, 0.05, 0.05, 0.05, 0.05], [0.1, 0.3, 0.2, 0.2, 0.11, 0.09]])
    first = nets.log([[0.3, 0.25, 0.15, 0.1, 0.1, 0.1], [0.0, 0.1, 0.1, 0.1, 0.1, 0.6]])
    assert ensemble.tune([among, first], labels) == [1, 0]
    once = nets.log([[0.3, 0.29, 0.2, 0.1, 0.06, 0.05], [0.01, 0.5, 0.2, 0.2, 0.085, 0.005]])
    near = nets.log([[0.3, 0.69, 0.01, 0.0, 0.0, 0.0]] * 2)  # twice second, lower loss
    weights = ensemble.tune([once, near], labels)
    assert error_rates.errors(ensemble.mean([once, near], weights), labels).top1 == 0.5
    sure, unsure = (nets.log([[x, *[(1 - x) / 5] * 5]] * 2) for x in (0.9, 0.6))
    assert ensemble.tune([unsure, sure], labels) == [0, 1]
