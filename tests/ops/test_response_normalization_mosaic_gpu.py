"""The Mosaic GPU kernels, interpreted and compared with the formula, and lowered for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import PartitionSpec as P

import reference
from alexnet_jax.ops.formula import PAPER, SHAPES, Formula
from alexnet_jax.ops.implementations import OLDEST_MOSAIC_JAX, Platform
from alexnet_jax.ops.mosaic_gpu import response_normalization as module
from alexnet_jax.ops.mosaic_gpu.response_normalization import backward, forward
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from devices import TOWERS, lowered

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < OLDEST_MOSAIC_JAX,
    reason=f'JAX {jax.__version__} has another interface of Mosaic GPU: 0.12 is needed',
)

HOPPER = Platform('gpu', is_local=False, has_mosaic_gpu=True)
OTHER = Formula(4, 1.0, 2e-5, 0.5, rectify=True)
# Blocks of 16 pixels with 48 maps, of 8 with 128, and of 128 with 5: one that the pixels fill, one
# beyond them, and a last one that overlaps the one before. Windows of an even number of maps, of
# one, of more than there are, and of more than the 16 zeros beside 128 maps.
CASES = [
    ((2, 3, 5, 48), PAPER),
    ((1, 5, 5, 128), PAPER),
    ((13, 11, 5), PAPER),
    ((5,), PAPER),
    ((3, 1, 3, 6), OTHER),
    ((2, 2, 3, 12), Formula(1, 2.0, 1e-4, 1.0, rectify=False)),
    ((2, 2, 3, 3), Formula(7, 2.0, 1e-4, 0.75, rectify=True)),
    ((2, 128), Formula(41, 2.0, 1e-4, 0.75, rectify=False)),
]


def draw(shape, seed, dtype=np.float32):
    """Draws values as large as in conv1's maps, and zeros, so that alpha's term counts."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 100, shape) * (rng.random(shape) > 0.1)
    return x.astype(np.float32).astype(dtype)


def both(formula, interpret=True):
    """Returns the function from x and g to y and dx."""
    options = dict(formula=formula, interpret=interpret)
    return lambda x, g: (forward(x, **options), backward(x, g, **options))


def assert_agrees(results, x, g, formula, tolerance):
    """Compares y and dx with float64, relative to y and to the two terms of dx."""
    *constants, rectify = formula
    constants = dict(zip(('size', 'k', 'alpha', 'beta'), constants, strict=True), groups=1)
    x, g = reference.float64(x), reference.float64(g)
    r = reference.relu(x) if rectify else x
    y = reference.response_normalization(r, **constants)
    dx = reference.response_normalization_vjp(r, g, **constants)
    sizes = {name: constants[name] for name in ('size', 'k', 'alpha', 'groups')}
    scaled = abs(g) * reference.response_scale(r, **sizes) ** -formula.beta
    terms = 2 * scaled - reference.response_normalization_vjp(abs(r), abs(g), **constants)
    dx = np.where(x > 0, dx, 0) if rectify else dx  # jax.nn.relu's derivative at 0 is 0
    for actual, expected, magnitude in zip(results, (y, dx), (abs(y), terms), strict=True):
        assert actual.shape == expected.shape
        assert np.max(abs(reference.float64(actual) - expected) - tolerance * magnitude) <= 0


@pytest.mark.parametrize(('shape', 'formula'), CASES)
def test_agrees_with_the_formula(shape, formula):
    x, g = draw(shape, 0), draw(shape, 1)
    results = jax.jit(both(formula))(x, g)
    assert [a.dtype for a in results] == [jnp.float32] * 2
    assert_agrees(results, x, g, formula, tolerance=1e-6)


def test_rectifies_first_in_bfloat16_and_rounds_once():
    """The arithmetic is float32, so only rounding the result to 8 bits loses digits."""
    x, g = draw((2, 3, 5, 48), 0, jnp.bfloat16), draw((2, 3, 5, 48), 1, jnp.bfloat16)
    results = jax.jit(both(PAPER))(x, g)
    assert [a.dtype for a in results] == [jnp.bfloat16] * 2
    assert_agrees(results, x, g, PAPER, tolerance=2**-8 + 1e-6)


def test_programs_do_not_race():
    """Blocks that the pixels fill are written by one program each, and nothing unwritten is read.

    Interpret mode fills what nothing has written with NaN, and refuses addresses beyond an array.
    """
    x, g = draw((2, 16, 48), 0), draw((2, 16, 48), 1)
    with plgpu.force_gpu_interpret_mode(
        plgpu.InterpretGPUParams(detect_races=True, **module.INTERPRETED)
    ):
        results = both(PAPER, interpret=False)(x, g)
    assert_agrees(results, x, g, PAPER, tolerance=1e-6)


def test_nan_stays_in_its_pixel():
    x, g = draw((4, 6, 48), 0), draw((4, 6, 48), 1)
    x[1, 1, 5] = np.nan
    for result in both(PAPER)(x, g):
        assert np.isnan(result[1, 1]).any()
        assert np.argwhere(np.isnan(result))[:, :2].tolist() == [[1, 1]] * np.isnan(result).sum()


def test_under_vmap_and_without_images():
    x, g = draw((2, 3, 2, 8), 0), draw((2, 3, 2, 8), 1)
    results = jax.vmap(both(PAPER), in_axes=1, out_axes=1)(x, g)
    assert_agrees(results, x, g, PAPER, tolerance=1e-6)
    assert [a.shape for a in both(PAPER)(x[:0], g[:0])] == [(0, 3, 2, 8)] * 2


def chosen(x, g):
    """Returns y and dx of the kernels, chosen by their name."""
    options = dict(rectify=True, implementation='mosaic_gpu', platform=HOPPER)
    y, pull_back = jax.vjp(functools.partial(response_normalization, **options), x)
    return y, *pull_back(g)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_lowers_at_full_size(shape, dtype):
    x = jax.ShapeDtypeStruct((128, *shape), dtype)
    text = lowered(chosen, 'cuda', x, x)
    assert text.count('custom_call @mosaic_gpu') == 2
    assert 'response_normalization_forward' in text
    assert 'response_normalization_backward' in text


@pytest.mark.parametrize('varying', [P('tower'), P(('tower', 'data'))])
def test_lowers_inside_a_checked_shard_map(varying):
    """A kernel declares over which axes of the mesh its result varies, as its derivative needs."""
    x = jax.ShapeDtypeStruct((8, 7, 48), jnp.float32)
    mapped = jax.shard_map(chosen, mesh=TOWERS, in_specs=varying, out_specs=varying)
    text = lowered(mapped, 'cuda', x, x, mesh=TOWERS)
    assert text.count('custom_call @mosaic_gpu') == 2


def equations(jaxpr):
    """Yields the equations of a jaxpr and of those inside it, in order."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple) else (parameter,):
                inner = getattr(inner, 'jaxpr', inner)  # of a closed jaxpr
                if hasattr(inner, 'eqns'):
                    yield from equations(inner)


@pytest.mark.parametrize(('kernel', 'buffers'), [(forward, 1), (backward, 2)])
def test_a_barrier_separates_writes_and_reads_of_shared_memory(kernel, buffers):
    """A program is one thread to interpret mode, which would not notice a missing barrier.

    No buffer is written again after it was read, so no barrier is needed after the reads. Each
    window of five reads four neighbours.
    """
    arrays = [jax.ShapeDtypeStruct((160, 48), jnp.float32)] * buffers  # as many as buffers
    jaxpr = jax.make_jaxpr(functools.partial(kernel, formula=PAPER))(*arrays)
    written, reads, barriers = set(), [], 0  # written since the last barrier
    for equation in equations(jaxpr.jaxpr):
        name = equation.primitive.name
        assert name not in ('get', 'swap')  # the other ways to read and write
        if name == 'inline_mgpu':
            written, barriers = set(), barriers + 1
        elif name in ('load', 'store') and equation.invars[0].aval.memory_space == plgpu.SMEM:
            buffer = equation.invars[0]
            assert buffer not in (reads if name == 'store' else written)
            if name == 'store':
                written.add(buffer)
            else:
                reads.append(buffer)
    assert (barriers, len(set(reads)), len(reads)) == (buffers, buffers, 4 * buffers)


def test_pooling_follows_the_kernel():
    """There is no common kernel for normalization and pooling."""
    x = jax.ShapeDtypeStruct((2, 9, 9, 48), jnp.float32)
    options = dict(implementation='mosaic_gpu', platform=HOPPER)
    text = lowered(lambda x: normalized_pooling(x, *PAPER[:4], 3, 2, **options), 'cuda', x)
    assert text.count('custom_call @mosaic_gpu') == 1
    assert '__gpu$xla.gpu.triton' not in text


@pytest.mark.parametrize('maps', [1, 5, 8, 48, 60, 96, 128, 256, 1920, 2048])
def test_each_thread_has_the_same_number_of_values(maps):
    rows = module._rows(maps)
    assert rows & (rows - 1) == 0
    assert rows * maps % module.THREADS == 0
    assert rows * maps <= module.MOST_ELEMENTS * module.THREADS


def test_refuses_what_it_cannot_compute():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(ValueError, match=r'the cotangent of float32\[2,8\] is float32\[1,8\]'):
        backward(x, x[:1], PAPER)
    for maps in (17, 50, 4096):
        with pytest.raises(ValueError, match=f'{maps} maps: the Mosaic GPU kernel takes an odd'):
            forward(np.ones((1, maps), np.float32), PAPER)
    more = jax.ShapeDtypeStruct((2**31 // 32, 32), jnp.bfloat16)
    with pytest.raises(ValueError, match=r'2\*\*31 elements or more'):
        jax.eval_shape(both(PAPER, False), more, more)
