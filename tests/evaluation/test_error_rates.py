import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.data import augmentation
from alexnet_jax.data.loading import loader
from alexnet_jax.evaluation import error_rates
from alexnet_jax.evaluation.error_rates import errors, interval
from alexnet_jax.model import alexnet, inference, towers
from alexnet_jax.ops.top_k_credit import credit
from alexnet_jax.training.validation import make_evaluate


def test_credit_counts_ranks():
    scores = jnp.asarray([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    labels = jnp.asarray([2, 2])
    np.testing.assert_array_equal(credit(scores, labels, 1), [0, 0])
    np.testing.assert_array_equal(credit(scores, labels, 2), [1, 0])
    np.testing.assert_array_equal(credit(scores, labels, 3), [1, 1])


def test_ties_share_the_credit():
    """2012, layer_kernels.cu: 1 / number of equals; equal outputs score as chance."""
    scores, labels = jnp.zeros((1, 10)), jnp.asarray([4])
    assert credit(scores, labels, 1)[0] == pytest.approx(0.1)
    assert credit(scores, labels, 5)[0] == pytest.approx(0.5)
    two_ahead = scores.at[0, :2].set(1.0)
    assert credit(two_ahead, labels, 1)[0] == 0
    assert credit(two_ahead, labels, 5)[0] == pytest.approx(3 / 8)


def test_nan_scores_count_as_wrong():
    assert credit(jnp.full((1, 10), jnp.nan), jnp.asarray([4]), 5)[0] == 0


class Pictures:
    def __init__(self, length, size):
        self.size = size
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (length, size, size, 3), np.uint8)
        self.labels = rng.integers(10, size=length)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {'image': self.images[index], 'label': int(self.labels[index])}


@pytest.mark.parametrize('mirror', [False, True])
def test_errors_are_those_of_the_mean_softmax(mirror):
    """The reference crops and averages the views here."""
    config = nets.small(augmentation__mirror=mirror)
    mesh, pictures = nets.mesh_of(2), Pictures(11, 72)
    params, mean = alexnet.initialize(config), np.full((72, 72, 3), 100, np.float32)
    batches = loader.evaluation_batches(pictures, loader.Reading(72), 8)
    results = make_evaluate(config, mesh)(params, mean, batches, config.views, 11)

    logits = nets.compiled_logits(config, nets.mesh_of(1))
    places = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    stacks = []
    for flip in (False, True) if mirror else (False,):
        for top, left in places:
            x = pictures.images[:, top : top + 64, left : left + 64].astype(np.float32) - 100
            stacks.append(np.asarray(jax.nn.softmax(logits(params, x[:, :, ::-1] if flip else x))))
    ranks = (np.mean(stacks, 0) > np.mean(stacks, 0)[np.arange(11), pictures.labels][:, None]).sum(
        1
    )
    centre = (stacks[0] > stacks[0][np.arange(11), pictures.labels][:, None]).sum(1)
    assert results['images'] == 11
    assert results['views/top1_error'] == pytest.approx(np.mean(ranks >= 1))
    assert results['views/top5_error'] == pytest.approx(np.mean(ranks >= 5))
    assert results['top1_error'] == pytest.approx(np.mean(centre >= 1))
    assert results['top5_error'] == pytest.approx(np.mean(centre >= 5))
    own = stacks[0][np.arange(11), pictures.labels]
    assert results['loss'] == pytest.approx(-np.log(own).mean(), rel=1e-5)


def test_every_image_counts_once_on_any_batch_and_mesh():
    config, pictures = nets.small(), Pictures(23, 72)
    params, mean = alexnet.initialize(config), np.zeros((72, 72, 3), np.float32)
    results = []
    for batch_size, mesh in (
        (4, nets.mesh_of(1)),
        (23, nets.mesh_of(2)),
        (8, nets.mesh_of(1, data=2)),
    ):
        batches = loader.evaluation_batches(pictures, loader.Reading(72), batch_size)
        placed = jax.device_put(params, towers.shardings(mesh, alexnet.partitions(config, mesh)))
        results.append(make_evaluate(config, mesh)(placed, mean, batches, 1, 23))
    assert [result['images'] for result in results] == [23] * 3
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)
    assert not any(name.startswith('views') for name in results[0])


def test_a_missing_image_is_an_error():
    config, pictures = nets.small(), Pictures(9, 72)
    batches = list(loader.evaluation_batches(pictures, loader.Reading(72), 8))
    params, mean = alexnet.initialize(config), np.zeros((72, 72, 3), np.float32)
    with pytest.raises(AssertionError, match='8 of 9 images were evaluated'):
        make_evaluate(config, nets.mesh_of(1))(params, mean, batches[:1], 1, 9)


def test_a_run_may_evaluate_the_centre_crop_alone():
    config = nets.small(augmentation__mirror=True)
    assert len(inference.test_views(config)) == 10
    alone = nets.small(augmentation__mirror=True, evaluation__average_views=False)
    assert inference.test_views(alone) == [augmentation.View(4, 4, False)]


def test_the_first_view_is_the_centre():
    assert augmentation.test_views(72, 64, mirror=True)[0] == augmentation.View(4, 4, False)


def test_errors_of_log_probabilities():
    """Ties share the credit; probabilities that float32 rounds to 0 have an order and a loss."""
    log_p = np.float32([[-0.7, -1.2, -1.6], [-0.9, -0.9, -1.6], [0.0, -300.0, -200.0]])
    results = errors(log_p, np.int32([0, 1, 2]))
    assert results.images == 3
    assert results.top1 == pytest.approx(1 - (1 + 0.5 + 0) / 3)
    assert results.top5 == 0
    assert results.loss == pytest.approx((0.7 + 0.9 + 200) / 3)
    worse = np.float32([[0.0, *range(-106, -100), -150.0, -200.0]])
    assert [errors(worse, np.int32([label])).top5 for label in (0, 3, 2, 8)] == [0, 0, 1, 1]


def test_nan_counts_as_wrong_and_is_seen_in_the_loss():
    log_p = np.float32([[0.0, -9.0], [np.nan, np.nan], [np.nan, np.nan], [-9.0, 0.0]])
    results = errors(log_p, np.int32([0, 0, 1, 1]))
    assert (results.top1, results.top5) == (0.5, 0.5)
    assert np.isnan(results.loss)
    assert error_rates.top_errors(log_p, np.int32([0, 0, 1, 1]))[1].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize('label', [-1, 3])
def test_a_label_of_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f'label {label} is not one of 3 classes'):
        errors(np.zeros((2, 3), np.float32), np.int32([0, label]))


def test_the_mean_of_views_is_that_of_their_probabilities():
    rng = np.random.default_rng(0)
    log_p = [np.asarray(jax.nn.log_softmax(rng.normal(0, 9, (6, 5))), np.float32) for _ in range(4)]
    expected = np.log(np.mean([np.exp(x.astype(np.float64)) for x in log_p], axis=0))
    np.testing.assert_allclose(inference.mean_of_views(log_p), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(inference.mean_of_views(log_p[:1]), log_p[0])
    far = [jnp.asarray([[0.0, -500.0, -600.0, -jnp.inf]], jnp.float32)] * 2
    np.testing.assert_allclose(inference.mean_of_views(far), far[0], rtol=1e-6)
    assert np.isnan(inference.mean_of_views([far[0], far[0] * jnp.nan])).all()


def test_nan_outputs_are_wrong_and_reported_while_training():
    """One logit of all images is NaN, and so is their softmax; padded rows do not count."""
    config, pictures = nets.small(), Pictures(11, 72)
    params, mean = alexnet.initialize(config), np.zeros((72, 72, 3), np.float32)
    params['fc8']['bias'] = params['fc8']['bias'].copy()
    params['fc8']['bias'][3] = np.nan
    batches = loader.evaluation_batches(pictures, loader.Reading(72), 8)
    results = make_evaluate(config, nets.mesh_of(2))(params, mean, batches, 2, 11)
    assert np.isnan(results.pop('loss'))
    assert results.pop('images') == 11
    assert results == dict.fromkeys(
        ('top1_error', 'top5_error', 'views/top1_error', 'views/top5_error'), 1
    )


def test_a_padded_row_may_hold_nan():
    config, pictures = nets.small(), Pictures(9, 72)
    params, mean = alexnet.initialize(config), np.zeros((72, 72, 3), np.float32)
    evaluate = make_evaluate(config, nets.mesh_of(2))
    batches = list(loader.evaluation_batches(pictures, loader.Reading(72), 8))
    expected = evaluate(params, mean, batches, 1, 9)
    batches[1]['label'] = np.where(batches[1]['weight'] > 0, batches[1]['label'], -9999)
    assert evaluate(params, mean, batches, 1, 9) == expected  # the loss of these rows is NaN


def test_fewer_views_than_asked_for_are_refused():
    config = nets.small(evaluation__average_views=False)
    with pytest.raises(ValueError, match='5 views of 1'):
        make_evaluate(config, nets.mesh_of(1))({}, np.zeros(3), [], 5, 0)


def test_the_interval_is_wilsons():
    """The measured error is 1.96 standard deviations away from either bound."""
    for error, images in ((0.1, 100), (0.5, 7), (0.18, 50_000)):
        for bound in interval(error, images):
            deviation = np.sqrt(bound * (1 - bound) / images)
            assert abs(error - bound) / deviation == pytest.approx(1.96, abs=1e-3)
    assert interval(0.0, 355) == pytest.approx((0, 0.0107), abs=1e-4)
    assert interval(1.0, 10) == pytest.approx((0.722, 1), abs=1e-3)
