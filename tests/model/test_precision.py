"""`model.precision` reaches every product of every program that contains the net."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest

import nets
from alexnet_jax.model import alexnet, inference
from alexnet_jax.model.net import Net
from alexnet_jax.runtime import compilation
from alexnet_jax.training.state import state_shapes
from alexnet_jax.training.step import make_train_step

# Every kind of layer that has weights.
LAYERS = dict(
    model__conv3__batch_normalization=True,
    model__conv4__shared=False,
    model__bottleneck__units=64,
)
SMALL = dict(model__width=0.0625)


def precisions(lowered):
    """Counts the convolutions and products of a program by the precision of both factors."""
    lines = [x for x in lowered.as_text().splitlines() if re.search(r'\.(convolution|dot)\b', x)]
    lines += [x for x in lowered.as_text().splitlines() if 'stablehlo.dot_general' in x]
    return collections.Counter(
        tuple(re.findall(r'\b(DEFAULT|HIGH|HIGHEST)\b', line)) for line in lines
    )


def lower(function, *arguments):
    """Lowers a function for a GPU; none need be attached."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=('cuda',))


def lower_step(config):
    mesh = nets.mesh_of(2)
    arguments = state_shapes(config, mesh), nets.batch(config), nets.constants()
    step = make_train_step(config, mesh).trace(*arguments, nets.hyperparameters(0.01))
    return step.lower(lowering_platforms=('cuda',))


@pytest.mark.parametrize('precision', ['default', 'highest'])
def test_every_product_of_a_step_has_the_precision(precision):
    """Forward and backward, whatever JAX's own setting is, in a program for GPUs."""
    config = nets.small(model__precision=precision, **LAYERS, **SMALL)
    with jax.default_matmul_precision('high'):
        counts = precisions(lower_step(config))
    assert set(counts) == {(precision.upper(),) * 2}
    # Each layer has two derivatives, except for the first, whose input has none.
    assert counts.total() >= 3 * len(config.model.layers()) - 1


@pytest.mark.parametrize('precision', ['default', 'highest'])
def test_every_product_at_test_time_has_the_precision(precision):
    config, mesh = nets.small(model__precision=precision, **LAYERS, **SMALL), nets.mesh_of(1)
    images, centre = nets.batch(config)['image'], inference.test_views(config)[0]
    params, mean = alexnet.initialize(config), nets.constants().mean_HWC
    programs = [
        inference.make_log_probabilities(config, mesh),
        inference.make_log_probabilities(config, mesh, at_test_time=False),
        inference.make_hidden(config, mesh),
        inference.make_hidden(config, mesh, 'conv5'),
    ]
    lowered = [
        lower(lambda *arrays, program=program: program(*arrays, centre), params, mean, images)
        for program in programs
    ]
    lowered.append(lower(Net(config, mesh=mesh), jnp.asarray(nets.images(config, 2))))
    for counts in map(precisions, lowered):
        assert counts.total() >= len(config.model.convolutions())
        assert set(counts) == {(precision.upper(),) * 2}


@pytest.mark.slow
def test_the_precision_does_not_change_the_program_for_a_cpu():
    """Its products are float32 in any case. The net is that with the fewest layers."""
    mesh, raw = nets.mesh_of(1), nets.load('cifar10')

    def program(precision):
        config = nets.override(raw, model__precision=precision, optimizer__batch_size=8, **SMALL)
        constants = nets.constants(size=config.dataset.image_size)
        arguments = state_shapes(config, mesh), nets.batch(config), constants
        lowered = make_train_step(config, mesh).lower(*arguments, nets.hyperparameters(0.01))
        text = lowered.compile().as_text()
        text = re.sub(r', metadata=\{[^}]*\}|, operand_precision=\{[^}]*\}', '', text)
        return text.partition('\nFileNames')[0]

    assert program('highest') == program('default')


def test_every_program_with_the_net_is_compiled_with_the_settings(monkeypatch):
    calls = []

    def compile_program(function, device, precision, deterministic, **options):
        calls.append((device.platform, precision, deterministic))
        return jax.jit(function, **options)

    monkeypatch.setattr(compilation, 'compile_program', compile_program)
    config = nets.small(deterministic=True, model__precision='highest', **SMALL)
    mesh = nets.mesh_of(1)
    make_train_step(config, mesh)
    inference.make_log_probabilities.__wrapped__(config, mesh)
    inference.make_hidden.__wrapped__(config, mesh)
    lower(Net(config, mesh=mesh), nets.images(config, 1))
    assert calls == [('cpu', 'highest', True)] * 4
