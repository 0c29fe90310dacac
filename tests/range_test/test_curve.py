import re

import numpy as np
import pytest

from alexnet_jax.range_test.curve import SAFETY, Curve, Range, entropy, evaluate, parse
from alexnet_jax.runtime.user_errors import UserError
from range_curves import CHANCE, RATES, TEST, losses


def test_rates_grow_by_the_same_factor_from_the_lowest_to_the_highest():
    assert (RATES[0], RATES[-1]) == pytest.approx((1e-4, 1.0))
    np.testing.assert_allclose(RATES[1:] / RATES[:-1], RATES[1] / RATES[0])


@pytest.mark.parametrize('rises_at', [0.02, 0.05, 0.2])
@pytest.mark.parametrize('seed', range(3))
def test_the_suggestion_is_a_quarter_of_the_rate_above_which_the_loss_rises(rises_at, seed):
    result = evaluate(Curve(TEST, losses(0.003, rises_at, seed=seed), CHANCE))
    assert 0.6 * rises_at < result.stable < 1.1 * rises_at
    assert result.suggestion == pytest.approx(result.stable / SAFETY, rel=0.05)
    assert result.lowest == pytest.approx(0.5, abs=0.15)
    assert not result.reason


def test_a_net_that_has_been_trained_has_the_same_highest_stable_rate():
    """Its loss does not fall, or falls at the lowest rates at once."""
    fresh = evaluate(Curve(TEST, losses(0.003, 0.05), CHANCE))
    for falls_at in (1e-6, 3e-4):
        trained = evaluate(Curve(TEST, losses(falls_at, 0.05, low=0.02), CHANCE))
        assert trained.suggestion == pytest.approx(fresh.suggestion, rel=0.15)


def test_one_bad_batch_does_not_end_the_stable_rates():
    values = losses(0.003, 0.2)
    values[200] += 3.0  # at a rate of 0.01
    assert evaluate(Curve(TEST, values, CHANCE)).stable > 0.1


def test_noise_is_no_rise():
    """With many classes and few images in a batch, the losses of steps differ by nats."""
    values = losses(0.003, 0.05, low=2.0, noise=3.0)
    curve = Curve(TEST, values, CHANCE)
    assert curve.tolerance > 2 * 0.1 * CHANCE
    assert 0.02 < evaluate(curve).stable < 0.1


def test_a_loss_that_is_not_finite_ends_the_stable_rates():
    values = losses(0.003, 10.0)[:250]
    result = evaluate(Curve(TEST, values, CHANCE, ended_with=float('nan')))
    assert result.stable == pytest.approx(RATES[249])
    assert result.suggestion == float(f'{RATES[249] / 4:.2g}')


@pytest.mark.parametrize(
    ('values', 'ended_with', 'stopped', 'reason'),
    [
        (losses(10.0, 10.0), None, False, 'never fell clearly below 2.30.*--range_steps=1600'),
        (losses(10.0, 0.05), None, False, 'never fell clearly below 2.30'),
        (losses(10.0, 10.0)[:40], None, True, 'stopped before the loss fell'),
        (losses(0.003, 10.0), None, False, 'higher ones, --range=0.0001,100'),
        (losses(0.003, 10.0)[:300], None, True, 'stopped before the loss rose'),
        (losses(0.003, 0.05)[:0], np.nan, False, 'lower ones, --range=1e-07,0.001'),
        (losses(1e-6, 1.2e-4), None, False, 'lower ones, --range=1e-07,0.001'),
        (losses(0.003, 0.05)[:0], None, True, 'stopped'),
    ],
)
def test_a_curve_without_a_suggestion_says_what_to_do(values, ended_with, stopped, reason):
    result = evaluate(Curve(TEST, values, CHANCE, ended_with), stopped)
    assert result.suggestion is None
    assert re.search(reason, result.reason)


def test_the_loss_is_smoothed_over_a_fifth_of_a_decade_without_delay():
    assert TEST.half_window == 10
    assert Range(1e-4, 1.0, 20).half_window == 3
    values = np.arange(400.0)
    np.testing.assert_allclose(Curve(TEST, values, 1.0).smoothed[10:-10], values[10:-10])


def test_chance_is_the_entropy_of_the_labels():
    assert entropy([5, 5, 5, 5]) == pytest.approx(np.log(4))
    assert entropy([7, 0]) == 0
    assert entropy([9, 1]) == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1))


def test_the_range_is_two_rising_rates():
    assert parse(None, 400) == TEST
    assert parse(['1e-6', '0.01'], 30) == Range(1e-6, 0.01, 30)
    for text in (['1'], ['1', '1'], ['0.1', '0.01'], ['0', '1'], ['-1', '1'], ['a', 'b'], []):
        with pytest.raises(UserError, match='give two positive learning rates'):
            parse(text, 400)
    for text in (['nan', '1'], ['1', 'inf'], ['1e-320', '1'], ['1', '2', '3']):
        with pytest.raises(UserError, match='give two positive learning rates'):
            parse(text, 400)
