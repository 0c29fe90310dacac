"""Checks what a device may get wrong, beside the normalization kernels of normalization.py.

    python benchmarks/device_check.py [--width=0.25] [--batch=32] [--out=FILE]

- convolution: a convolution with bias and ReLU, which cuDNN may compute in one pass, returns the
  right numbers, and NaN where its window holds NaN. A ReLU that returns 0 for NaN would hide a net
  that has diverged.
- loss: where the weights of any layer are NaN, the loss of a training step is not finite, which is
  how training notices it. Kernels, pooling and dropout must not lose NaN either.
- bias: the kernel of normalization and pooling computes the gradient of the bias before it, which
  normalization.py --check leaves out.
- updates: the kernel of ops/momentum.py computes the update rule of §5.
- deterministic: with the setting `deterministic`, a step that is compiled twice computes the same
  bits. The digest of the parameters can be compared with that of another start.

A check that fails does not stop the next one; the exit code is 1 then. --checks chooses some of
them. On a CPU, the kernels are interpreted.
"""

import functools
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import lax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_net import make_config
from measuring import circumstances, heading, on_cpu, validate_choices, write
from normalization_layers import PAPER, POOL

from alexnet_jax.config import schema
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.operations import Operations
from alexnet_jax.ops import momentum as update_kernel
from alexnet_jax.ops.convolution import LAYOUT, convolution
from alexnet_jax.ops.formula import SHAPES
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.user_errors import first_line, parse_flags
from alexnet_jax.training import small_updates
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import State, find_nonfinite, place_initial_state
from alexnet_jax.training.step import Hyperparameters, make_train_step

MAPS, SIZE, KERNEL = 192, 13, 3  # conv4 of one tower
# The first two are relative to the largest value, and the third is absolute, for numbers near 1.
# Where rounding decides which pixels tie in a pool, its cotangent may go to another of them.
TOLERANCE = {'convolution': 1e-3, 'bias': 1e-2, 'updates': 4e-6}
STEPS = 2
CHECKS = ('convolution', 'bias', 'updates', 'loss', 'deterministic')

_WIDTH = flags.DEFINE_float('width', 0.25, 'Multiplies the maps and units of the net.', 1e-3)
_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_CHECKS = flags.DEFINE_list('checks', [*CHECKS], f'Checks to do: {", ".join(CHECKS)}.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')

validate_choices(_CHECKS, CHECKS)


class CheckError(Exception):
    """The device computes something else than it should."""


def check_convolution(dtype: str) -> str:
    """Checks a convolution with bias and ReLU.

    The numbers are integers of which all sums are exact in bfloat16.

    Returns:
      What was measured, for the terminal.

    Raises:
      CheckError: numbers are wrong, or NaN was lost.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (2, SIZE, SIZE, MAPS)).astype(np.float32)
    kernel = rng.integers(-1, 2, (KERNEL, KERNEL, MAPS, MAPS)).astype(np.float32)
    bias = rng.integers(-8, 9, (1, 1, 1, MAPS)).astype(np.float32)
    operations = Operations(('relu',), (), follow_convolution=True)

    @jax.jit
    def layer(x: Any, kernel: Any, bias: Any) -> Any:
        sums = convolution(x.astype(dtype), kernel.astype(dtype), 1, KERNEL // 2)
        return operations([sums], [bias])[0].astype(jnp.float32)

    expected = _convolve_on_cpu(x, kernel, bias)
    error = float(np.abs(layer(x, kernel, bias) - expected).max() / expected.max())
    if not error <= TOLERANCE['convolution']:
        raise CheckError(f'the relative error is {error:.2g}')
    x[0, SIZE // 2, SIZE // 2, 0] = np.nan
    windows = np.isnan(_convolve_on_cpu(x, kernel, bias))
    lost = windows & ~np.isnan(layer(x, kernel, bias))
    if lost.any():
        raise CheckError(f'{lost.sum()} of {windows.sum()} results should be NaN and are not')
    return f'relative error {error:.1e}, and NaN stays NaN'


def _convolve_on_cpu(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        arrays = jnp.asarray(x), jnp.asarray(kernel)
        sums = lax.conv_general_dilated(*arrays, (1, 1), 'SAME', dimension_numbers=LAYOUT)
        return np.maximum(np.asarray(sums) + bias, 0)


def check_bias(dtype: str, shape: Sequence[int]) -> str:
    """Checks the gradient of the bias before ReLU, normalization and pooling.

    Args:
      dtype: of the maps.
      shape: of the maps.

    Returns:
      The error, for the terminal.

    Raises:
      CheckError: the error is too large.
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0, 100, shape), dtype)
    bias = rng.normal(0, 10, (1, 1, 1, shape[-1])).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=2)
    def gradient(x: Any, bias: Any, implementation: str) -> Any:
        def pool(bias: Any) -> Any:
            return normalized_pooling(
                x, *PAPER, *POOL, rectify=True, bias_111C=bias, implementation=implementation
            )

        y, pull_back = jax.vjp(pool, bias)
        return pull_back(jnp.ones_like(y))[0]

    own, right = (np.asarray(gradient(x, bias, name)) for name in ('pallas', 'jax'))
    error = float(np.abs(own - right).max() / np.abs(right).max())
    if not error <= TOLERANCE['bias']:
        raise CheckError(f'the relative error is {error:.2g}')
    return f'relative error of its gradient {error:.1e}'


def check_loss(config: schema.Config) -> str:
    """Checks that a training step notices NaN in the weights of each layer.

    Returns:
      What was checked, for the terminal.

    Raises:
      CheckError: a loss or the new state is finite with such weights, or not finite without them.
    """
    run, params = _training(config), alexnet.initialize(config)
    loss, state = run(params)
    if not math.isfinite(loss) or find_nonfinite(state):
        raise CheckError(f'the loss of the first step is {loss}')
    for layer in params:
        loss, state = run(params | {layer: jax.tree.map(_spoil, params[layer])})
        if math.isfinite(loss):
            raise CheckError(f'with weights of {layer} that are NaN, the loss is {loss}')
        if not find_nonfinite(state):
            raise CheckError(f'after weights of {layer} were NaN, the new state is finite')
    return f'NaN in {", ".join(params)} is noticed'


def _spoil(parameter: np.ndarray) -> np.ndarray:
    """Returns NaN in place of weights, and biases as they are."""
    return np.full_like(parameter, np.nan) if parameter.ndim > 2 else parameter


def _training(config: schema.Config) -> Callable[..., tuple[float, State]]:
    """Returns a function of parameters (on the host) and `steps`, to loss and new state."""
    mesh = towers.choose_mesh(config)
    step = make_train_step(config, mesh)
    batch, constants, numbers = _inputs(config, mesh)

    def run(params: Any, steps: int = 1) -> tuple[float, State]:
        state, metrics = place_initial_state(config, mesh, params), {'loss': math.nan}
        for _ in range(steps):
            state, metrics = step(state, batch, constants, numbers)
        return float(metrics['loss']), state

    return run


def _inputs(config: schema.Config, mesh: jax.sharding.Mesh) -> tuple[Any, Any, np.ndarray]:
    """Returns the arguments of a step after the state: noise, grey, the first learning rates."""
    count, size = config.optimizer.batch_size, config.dataset.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, size, size, 3), dtype=np.uint8)
    labels = rng.integers(config.dataset.classes, size=count, dtype=np.int32)
    everywhere = towers.shardings(mesh, towers.spec(mesh, 'constants'))
    grey = np.full((size, size, 3), 127.5, np.float32)
    constants = augmentation.Constants(grey, np.eye(3, dtype=np.float32))
    batch = towers.put_batch(mesh, {'image': images, 'label': labels})
    numbers = Hyperparameters.at(config, 0.0, Progress()).pack()
    return batch, jax.device_put(constants, everywhere), numbers


def check_updates(config: schema.Config) -> str:
    """Checks the kernel of the small updates against the update rule.

    Returns:
      The largest error, for the terminal.

    Raises:
      CheckError: it is too large, or training would not use the kernel on this device.
    """
    if not on_cpu() and small_updates.choose(config, Platform.default()) is None:
        raise CheckError('training does not use the kernel on this device')
    shapes = jax.tree.leaves(alexnet.shapes(config))
    pairs = zip(small_updates.rules_of(config), shapes, strict=True)
    small = [(rule, array.shape) for rule, array in pairs if rule is not None]
    rules = [rule for rule, _ in small]
    rng = np.random.default_rng(0)
    w, v, g = ([rng.normal(size=s).astype(np.float32) for _, s in small] for _ in range(3))
    rates = np.array([0.5, 0.25, 0.125, 0.0, 0.0], np.float32)  # conv1's bias does not change
    momentum = config.optimizer.momentum
    update = functools.partial(
        update_kernel.update, rules=rules, momentum=momentum, interpret=on_cpu()
    )
    results = jax.jit(lambda w, v, g: update(w, v, g, hyperparameters=jnp.asarray(rates)))(w, v, g)
    largest = 0.0
    for rule, old_w, old_v, g_i, new_w, new_v in zip(rules, w, v, g, *results, strict=True):
        rate = float(rates[rule.rate])
        velocity = momentum * old_v - rate * rule.factor * (g_i + rule.decay * old_w)
        moved = 0 if rule.may_freeze and rate == 0 else velocity
        for own, right in ((new_v, velocity), (new_w, old_w + moved)):
            largest = max(largest, float(np.abs(np.asarray(own) - right).max()))
    if not largest <= TOLERANCE['updates']:
        raise CheckError(f'the largest error is {largest:.2g}')
    return f'{len(rules)} arrays, largest error {largest:.1e}'


def check_deterministic(config: schema.Config) -> str:
    """Checks that steps which are compiled twice compute the same bits.

    Returns:
      A digest of the parameters, for the terminal.

    Raises:
      CheckError: the bits differ.
    """
    params = alexnet.initialize(config)
    digests = []
    for _ in range(2):
        jax.clear_caches()
        _, state = _training(config)(params, steps=STEPS)
        leaves = jax.tree.leaves(jax.device_get(state.params))
        digests.append(hashlib.sha256(b''.join(leaf.tobytes() for leaf in leaves)).hexdigest()[:16])
    if digests[0] != digests[1]:
        raise CheckError(f'two compilations of the same steps differ: {", ".join(digests)}')
    return f'the same bits twice, {digests[0]} after {STEPS} steps'


def checks(names: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yields the name of each check and a function that does it.

    Args:
      names: some of CHECKS.
    """
    config = functools.partial(make_config, 1, _BATCH.value, width=_WIDTH.value)
    shape = (1, 7, 7, 4) if on_cpu() else (8, *SHAPES['conv1'])
    each: dict[str, Callable[[str], str]] = {
        'convolution': check_convolution,
        'bias': lambda dtype: check_bias(dtype, shape),
        'loss': lambda dtype: check_loss(config(dtype)),
    }
    for name in names:
        if name == 'updates':
            yield name, lambda: check_updates(config())
        elif name == 'deterministic':
            yield name, lambda: check_deterministic(config('bfloat16', deterministic=True))
        else:
            for dtype in schema.DTYPES:
                yield f'{name}, {dtype}', functools.partial(each[name], dtype)


def main(_: Sequence[str]) -> None:
    """Runs all checks."""
    logging.set_verbosity(logging.ERROR)
    cpu_devices.prepare_cpu_devices(tower=1)
    about = circumstances(['jax', 'jaxlib']) | {'checks': {}, 'failures': {}}
    print(heading(about), flush=True)
    for name, check in checks(_CHECKS.value):
        try:
            about['checks'][name] = check()
            print(f'{name}: {about["checks"][name]}', flush=True)
        except Exception as error:  # the compiler's errors are of many types
            about['failures'][name] = f'{type(error).__name__}: {first_line(error)}'
            print(f'{name}: failed: {about["failures"][name]}', flush=True)
        if _OUT.value:
            write(_OUT.value, about)
    sys.exit(1 if about['failures'] else 0)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
