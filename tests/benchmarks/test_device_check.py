"""device_check.py: its checks pass on a CPU, and notice what they are for."""

import json
import os
import subprocess
import sys
import types

import device_check
import jax.numpy as jnp
import numpy as np
import pytest
from full_net import make_config

import nets
from alexnet_jax.ops import momentum


def test_a_convolution_and_its_relu_keep_nan():
    assert 'NaN stays NaN' in device_check.check_convolution('float32')


def test_a_relu_that_loses_nan_is_noticed(monkeypatch):
    class Operations(device_check.Operations):
        def __call__(self, maps, biases=None):
            return [jnp.where(y > 0, y, 0) for y in super().__call__(maps, biases)]

    monkeypatch.setattr(device_check, 'Operations', Operations)
    with pytest.raises(device_check.CheckError, match='should be NaN and are not'):
        device_check.check_convolution('float32')


def test_a_wrong_convolution_is_noticed(monkeypatch):
    convolution = device_check.convolution
    monkeypatch.setattr(device_check, 'convolution', lambda *args: 1.01 * convolution(*args))
    with pytest.raises(device_check.CheckError, match='the relative error is'):
        device_check.check_convolution('float32')


def test_a_wrong_bias_gradient_is_noticed(monkeypatch):
    pool = device_check.normalized_pooling

    def scaled(x, *args, implementation, bias_111C, **options):
        bias = bias_111C * (2 if implementation == 'pallas' else 1)
        return pool(x, *args, implementation='jax', bias_111C=bias, **options)

    monkeypatch.setattr(device_check, 'normalized_pooling', scaled)
    with pytest.raises(device_check.CheckError, match='the relative error is'):
        device_check.check_bias('float32', (1, 7, 7, 4))


def test_a_wrong_update_is_noticed(monkeypatch):
    def update(w, v, g, rules, hyperparameters, **_):
        rates = [hyperparameters[rule.rate] * rule.factor for rule in rules]
        velocity = [
            -r * (g + rule.decay * w) for r, rule, w, g in zip(rates, rules, w, g, strict=True)
        ]
        return [w + v for w, v in zip(w, velocity, strict=True)], velocity  # without momentum

    monkeypatch.setattr(momentum, 'update', update)
    with pytest.raises(device_check.CheckError, match='the largest error is'):
        device_check.check_updates(make_config(1, 2, width=0.0625))


def test_a_loss_that_stays_finite_is_noticed(monkeypatch):
    """No program is compiled: the step is replaced."""
    losses = iter([1.0, np.nan, 2.0])
    state = {'nothing': np.zeros(1)}
    monkeypatch.setattr(device_check, '_training', lambda _: lambda _: (next(losses), state))
    monkeypatch.setattr(device_check, 'find_nonfinite', lambda _: [])
    with pytest.raises(device_check.CheckError, match='conv1 were NaN, the new state is finite'):
        device_check.check_loss(make_config(1, 2, width=0.0625))


def test_steps_that_differ_are_noticed(monkeypatch):
    class State:
        def __init__(self, value):
            self.params = [np.float32(value)]

    values = iter([1.0, 2.0])
    monkeypatch.setattr(device_check.jax, 'clear_caches', lambda: None)
    monkeypatch.setattr(
        device_check, '_training', lambda _: lambda *_, **__: (0.0, State(next(values)))
    )
    with pytest.raises(device_check.CheckError, match='two compilations of the same steps differ'):
        device_check.check_deterministic(make_config(1, 2, width=0.0625))


def test_a_check_that_fails_does_not_stop_the_next_one(monkeypatch, tmp_path, capsys):
    def wrong(*_):
        raise device_check.CheckError('wrong')

    file = tmp_path / 'checks.json'
    monkeypatch.setattr(device_check, '_OUT', types.SimpleNamespace(value=file))
    monkeypatch.setattr(device_check, '_CHECKS', types.SimpleNamespace(value=[]))
    monkeypatch.setattr(device_check, 'checks', lambda _: [('first', wrong), ('second', str)])
    with pytest.raises(SystemExit, match='1'):
        device_check.main([])
    results = json.loads(file.read_text())
    assert results['failures'] == {'first': 'CheckError: wrong'}
    assert results['checks'] == {'second': ''}
    assert 'second: ' in capsys.readouterr().out


@pytest.mark.slow
def test_the_checks_pass_on_a_cpu(tmp_path):
    file = tmp_path / 'checks.json'
    flags = '--checks=updates,loss', '--width=0.0625', '--batch=2', f'--out={file}'
    result = subprocess.run(
        [sys.executable, 'benchmarks/device_check.py', *flags],
        cwd=nets.ROOT,
        env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    checks = json.loads(file.read_text())['checks']
    assert list(checks) == ['updates', 'loss, float32', 'loss, bfloat16']
    assert 'fc8 is noticed' in checks['loss, float32']
