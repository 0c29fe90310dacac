"""The kernel interpreted, in guarded memory and lowered, compared with the layers in float64."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import devices
import nets
import reference
from alexnet_jax.model import alexnet, layers, operations, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.ops import kernel_arrays
from alexnet_jax.ops import normalized_pooling as module
from alexnet_jax.ops.formula import PAPER as PAPER_FORMULA
from alexnet_jax.ops.formula import SHAPES
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.triton import normalized_pooling as kernels
from alexnet_jax.ops.triton import segments
from devices import TOWERS, kernel_calls, lowered, run

PAPER = dict(size=5, k=2.0, alpha=1e-4, beta=0.75)
POOL = dict(window=3, stride=2)
# (shape, constants, pools): maps in segments of four, two and one; windows of an even number of
# maps, of one map, and of more maps than there are; pools that extend beyond the right or bottom
# edge or both, that do not overlap, that skip pixels, also at the edge, and that have masks of more
# than 15 pixels.
CASES = [
    ((2, 7, 7, 4), dict(size=3, k=2.0, alpha=1e-4, beta=0.75), POOL),
    ((1, 6, 8, 5), PAPER, POOL),
    ((2, 5, 4, 6), dict(size=4, k=1.0, alpha=2e-5, beta=0.5), dict(window=2, stride=1)),
    ((1, 9, 8, 4), PAPER, dict(window=5, stride=2)),
    ((2, 7, 7, 12), PAPER, POOL),
    ((1, 5, 5, 48), PAPER, POOL),
    ((1, 3, 3, 128), PAPER, POOL),
    ((3, 4, 7, 3), dict(size=7, k=2.0, alpha=1e-4, beta=0.75), dict(window=2, stride=2)),
    ((2, 5, 6, 1), PAPER, dict(window=3, stride=1)),
    ((1, 2, 2, 4), dict(size=1, k=2.0, alpha=1e-4, beta=1.0), POOL),
    ((1, 8, 7, 8), PAPER, dict(window=2, stride=3)),
    ((2, 4, 9, 2), PAPER, dict(window=1, stride=3)),
    ((1, 1, 1, 4), PAPER, dict(window=1, stride=1)),
    ((1, 7, 6, 2), PAPER, dict(window=4, stride=3)),
]
TOLERANCE = {'float32': 1e-6, 'bfloat16': 2**-8}

each_dtype = pytest.mark.parametrize('dtype', TOLERANCE)


def draw(shape, seed=3, dtype='float32'):
    """Draws values as large as in conv1's maps, with zeros and two equal columns.

    So pools have ties.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 100, shape) * (rng.random(shape) > 0.1)
    x[:, :, 1:2] = x[:, :, :1]
    return jnp.asarray(x, dtype)


def cotangent(x, pool, seed=1):
    """Draws a cotangent of the result of pooling x."""
    shape = jax.eval_shape(functools.partial(max_pooling, **pool), x).shape
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), x.dtype)


def max_pooling(x, window, stride):
    return normalized_pooling(x, 1, 1.0, 0.0, 1.0, window, stride, implementation='jax')


def both(*arguments, **options):
    """Returns the function from x and g to y and dx."""
    function = with_bias(*arguments, **options)
    return lambda x, g: function(x, None, g)[:2]


def with_bias(constants=PAPER, pool=POOL, rectify=True, implementation='pallas', platform=None):
    """Returns the function from x, a bias and g to y, dx and the bias's gradient."""
    options = dict(rectify=rectify, implementation=implementation, platform=platform)

    def function(x, bias):
        return normalized_pooling(x, **constants, **pool, bias_111C=bias, **options)

    def value_and_derivatives(x, bias, g):
        y, pull_back = jax.vjp(function, x, bias)
        return y, *pull_back(g)

    return value_and_derivatives


# For devices that are not attached, kernels are chosen and lowered, but not tried.
GPU, TPU = (Platform(name, is_local=False) for name in ('gpu', 'tpu'))
for_gpu = functools.partial(both, platform=GPU)
KERNELS = ('normalized_pooling_forward', 'normalized_pooling_backward')


def rounded(x, dtype):
    """Rounds float64 to the dtype, except to float32, which is precise enough."""
    if dtype == 'float32':
        return x
    below, above = (np.asarray(x * (1 + e), jnp.bfloat16) for e in (-1e-6, 1e-6))
    # Where float32 may round to either neighbour, the reference cannot know which values tie.
    assert np.array_equal(below, above), 'take another seed'
    return reference.float64(below)


def exact(x, g, constants, pool, rectify):
    """Computes y and dx in float64; all pixels with a pool's largest value get its cotangent."""
    dtype, x, g = x.dtype.name, reference.float64(x), reference.float64(g)
    r = reference.relu(x) if rectify else x
    n = rounded(reference.response_normalization(r, **constants, groups=1), dtype)
    window, stride = pool['window'], pool['stride']
    beyond = [
        (0, max(0, (pools - 1) * stride + window - pixels))
        for pixels, pools in zip(n.shape[1:3], g.shape[1:3], strict=True)
    ]
    padded = np.pad(n, [(0, 0), *beyond, (0, 0)], constant_values=-np.inf)
    y = reference.max_pooling(padded, window, stride)
    dn = np.zeros_like(padded)
    for i, j in itertools.product(range(window), repeat=2):
        rows, columns = (
            slice(first, first + (pools - 1) * stride + 1, stride)
            for first, pools in zip((i, j), g.shape[1:3], strict=True)
        )
        dn[:, rows, columns] += np.where(padded[:, rows, columns] == y, g, 0)
    dn = dn[:, : n.shape[1], : n.shape[2]]
    dx = reference.response_normalization_vjp(r, dn, **constants, groups=1)
    return y, np.where(x > 0, dx, 0) if rectify else dx


def assert_agrees(results, x, g, constants=PAPER, pool=POOL, rectify=True):
    """Checks that the results are finite, and right within TOLERANCE times the largest value."""
    for actual, expected in zip(results, exact(x, g, constants, pool, rectify), strict=True):
        assert actual.dtype == x.dtype
        assert np.isfinite(expected).all()
        tolerance = TOLERANCE[x.dtype.name] * np.abs(expected).max()
        np.testing.assert_allclose(reference.float64(actual), expected, rtol=0, atol=tolerance)


@pytest.fixture
def short_kernels(monkeypatch):
    """Makes each thread compute one map and one pool, so that the kernels compile faster."""
    monkeypatch.setattr(segments, 'LONGEST', 1)
    monkeypatch.setattr(kernels, 'DOWN', 1)


@pytest.mark.parametrize(('case', 'dtype'), [(0, 'float32'), (1, 'bfloat16'), (2, 'float32')])
def test_agrees_with_the_layers(case, dtype):
    shape, constants, pool = CASES[case]
    x = draw(shape, dtype=dtype)
    g = cotangent(x, pool)
    assert_agrees(run(both(constants, pool), x, g), x, g, constants, pool)


@pytest.mark.parametrize(('number', 'case'), list(enumerate(CASES)))
def test_stays_inside_its_arrays_and_writes_every_address_once(number, case, monkeypatch):
    """Interpret mode does not notice an address outside an array; blocks have few segments."""
    (shape, constants, pool), rectify = case, number % 2 == 1
    dtype = 'bfloat16' if rectify else 'float32'
    monkeypatch.setattr(segments, 'BLOCK', 64)
    devices.use_guarded_memory(monkeypatch)
    x = draw(shape, dtype=dtype)
    g = cotangent(x, pool)
    results = for_gpu(constants, pool, rectify)(x, g)
    assert_agrees(results, x, g, constants, pool, rectify)


def draw_bias(x):
    """Draws a bias with fewer digits than a bfloat16 has."""
    bias = np.random.default_rng(2).integers(-100, 100, x.shape[-1])
    return jnp.asarray(bias, jnp.float32)[None, None, None]


def assert_bias_agrees(results, x, bias, g, constants=PAPER, pool=POOL):
    """Checks y and dx, and the bias's gradient within 1e-6 of the sum of its terms."""
    y, dx, sums = results
    x = x + bias.astype(x.dtype)
    assert_agrees((y, dx), x, g, constants, pool)
    _, exact_dx = exact(x, g, constants, pool, rectify=True)
    assert (sums.shape, sums.dtype) == (bias.shape, jnp.float32)
    terms = np.abs(exact_dx).sum((0, 1, 2))
    error = abs(reference.float64(sums)[0, 0, 0] - exact_dx.sum((0, 1, 2)))
    assert np.max(error - 1e-6 * terms) <= 0
    assert terms.min() > 0


@pytest.mark.parametrize(
    ('case', 'dtype', 'programs'), [(4, 'bfloat16', 1), (7, 'float32', 1), (5, 'float32', 9)]
)
def test_adds_up_the_gradient_of_the_bias(case, dtype, programs, monkeypatch):
    """In one program of two steps, the last of them ragged, and in a program with idle threads."""
    shape, constants, pool = CASES[case]
    monkeypatch.setattr(segments, 'BLOCK', 64)
    monkeypatch.setattr(segments, 'PROGRAMS', programs)
    counts, of_pixels = [], segments.Steps.of_pixels
    monkeypatch.setattr(
        segments.Steps, 'of_pixels', lambda *a: counts.append(of_pixels(*a).count) or of_pixels(*a)
    )
    devices.use_guarded_memory(monkeypatch)
    x = draw(shape, seed=4, dtype=dtype)
    bias, g = draw_bias(x), cotangent(x, pool)
    results = with_bias(constants, pool, platform=GPU)(x, bias, g)
    assert_bias_agrees(results, x, bias, g, constants, pool)
    assert counts == [2 if programs == 1 else 1]


@pytest.mark.parametrize(('maps', 'expected'), [(128, 1), (48, 21)])
def test_a_program_stores_few_sums(maps, expected):
    """It adds up its pixels' sums in halves, so 16 become 1, and the 42 of 48 maps become 21."""
    x = jax.ShapeDtypeStruct((128, 27, 27, maps), 'bfloat16')
    y, mask = jax.eval_shape(lambda x: kernels.forward(x, PAPER_FORMULA, 3, 2, with_mask=True), x)
    backward = functools.partial(kernels.backward, formula=PAPER_FORMULA, window=3, stride=2)
    (call,) = kernel_calls(functools.partial(backward, with_sums=True), x, mask, y)
    (programs,) = call.params['grid_mapping'].grid
    assert call.outvars[-1].aval.shape == (programs * expected * maps,)


@pytest.mark.parametrize('down', [1, 3])
def test_any_number_of_pools_per_thread(down, monkeypatch):
    monkeypatch.setattr(kernels, 'DOWN', down)
    devices.use_guarded_memory(monkeypatch)
    x = draw((2, 9, 5, 6))
    g = cotangent(x, POOL)
    assert_agrees(for_gpu()(x, g), x, g)


@pytest.mark.parametrize(('shape', 'constants', 'pool'), [CASES[0], CASES[9], CASES[10]])
def test_in_jax_it_agrees_with_the_layers(shape, constants, pool):
    x = draw(shape)
    g = cotangent(x, pool)
    assert_agrees(both(constants, pool, implementation='jax')(x, g), x, g, constants, pool)


def test_mask_has_a_bit_for_each_value_that_ties(monkeypatch):
    devices.use_guarded_memory(monkeypatch)
    x = np.zeros((1, 3, 5, 1), np.float32)
    x[0, 1, 1:4] = 1
    formula = PAPER_FORMULA
    y, mask = kernels.forward(x, formula, 3, 2, with_mask=True)
    assert mask.dtype == jnp.int32
    assert np.asarray(mask).ravel().tolist() == [0b110_000, 0b011_000]
    g = np.array([1.0, 10.0], np.float32).reshape(y.shape)
    (dx,) = kernels.backward(x, mask, g, formula, 3, 2)
    ratios = np.asarray(dx)[0, 1] / np.asarray(dx)[0, 1, 1]
    np.testing.assert_allclose(ratios.ravel(), [0, 1, 11, 10, 0], rtol=1e-6)
    assert not np.asarray(dx)[0, ::2].any()
    x[0, 2, 4] = np.nan
    _, mask = kernels.forward(x, formula, 3, 2, with_mask=True)
    assert np.asarray(mask).ravel().tolist() == [0b110_000, 0]


def test_several_blocks_with_a_ragged_end(short_kernels, monkeypatch):
    monkeypatch.setattr(kernel_arrays, 'INTERPRETED_BLOCK', 16)
    monkeypatch.setattr(segments, 'PROGRAMS', 3)
    x = draw((2, 7, 9, 3))
    bias, g = draw_bias(x), cotangent(x, POOL)
    # Sixteen elements in a block: of 2 x 3 x 4 pools of three maps; and, of 2 x 4 x 5 blocks of
    # pixels, five in each step. Of the eight steps, the last program has two, and the others three.
    grids = [call.params['grid_mapping'].grid for call in kernel_calls(with_bias(), x, bias, g)]
    assert grids == [(5,), (3,)]
    assert_bias_agrees(run(with_bias(), x, bias, g), x, bias, g)


def test_nan_appears_in_its_pools_and_stays_in_its_pixel(monkeypatch):
    devices.use_guarded_memory(monkeypatch)
    x = np.array(draw((2, 7, 7, 12)))
    for column in range(3):  # the first, a middle one, and the last of a pool's window
        x[1, 3, column, 5] = np.nan
        y, dx = for_gpu()(x, cotangent(x, POOL))
        assert np.isnan(np.asarray(y)[1, 1, 0, 3:8]).all()
        assert {tuple(at[:2]) for at in np.argwhere(np.isnan(y))} == {(1, 1)}
        # At the NaN itself, which is not above 0, the derivative of the ReLU is 0.
        assert {tuple(at) for at in np.argwhere(np.isnan(dx))[:, :3]} == {(1, 3, column)}
        x[1, 3, column, 5] = 0


def test_under_vmap(short_kernels):
    x = draw((2, 5, 2, 5, 3))
    parts = jnp.unstack(x, axis=2)
    g = jnp.stack([cotangent(part, POOL, seed=n) for n, part in enumerate(parts)], axis=2)
    results = run(jax.vmap(both(), in_axes=2, out_axes=2), x, g)
    for n in range(2):
        assert_agrees([a[:, :, n] for a in results], x[:, :, n], g[:, :, n])


def test_inside_a_shard_map_over_two_devices(short_kernels):
    x = draw((4, 5, 5, 3))
    g = cotangent(x, POOL)
    mesh = jax.make_mesh((1, 2), ('data', 'tower'), axis_types=(AxisType.Auto,) * 2)
    specs = P(('tower', 'data'))
    # check_vma=True refuses interpreted kernels, which mix constants with values that vary.
    mapped = jax.shard_map(both(), mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    results = run(mapped, x, g)
    assert len(results[0].sharding.device_set) == 2
    assert_agrees(results, x, g)


@each_dtype
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_lowers_at_full_size(shape, dtype):
    x = jax.ShapeDtypeStruct((128, *shape), dtype)
    g = jax.eval_shape(functools.partial(max_pooling, **POOL), x)
    text = lowered(for_gpu(), 'cuda', x, g)
    assert text.count('custom_call @__gpu$xla.gpu.triton(') == 2
    assert all(name in text for name in KERNELS)
    assert 'maxnum' not in text  # Triton's maximum, which turns a NaN into 0


@pytest.mark.parametrize('varying', [P('tower'), P(('tower', 'data'))])
def test_lowers_inside_a_checked_shard_map(varying):
    """With check_vma=True, a kernel must declare over which axes of the mesh its result varies."""
    x = jax.ShapeDtypeStruct((8, 5, 5, 48), jnp.float32)
    g = jax.ShapeDtypeStruct((8, 2, 2, 48), jnp.float32)
    mapped = jax.shard_map(for_gpu(), mesh=TOWERS, in_specs=varying, out_specs=varying)
    text = lowered(mapped, 'cuda', x, g, mesh=TOWERS)
    assert text.count('custom_call @__gpu$xla.gpu.triton(') == 2


def test_in_a_shard_map_the_bias_has_the_sum_of_the_gradients():
    x = jax.ShapeDtypeStruct((8, 5, 5, 48), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((1, 1, 1, 48), jnp.float32)
    g = jax.ShapeDtypeStruct((8, 2, 2, 48), jnp.bfloat16)
    data, all_devices = P('data'), P()
    mapped = jax.shard_map(
        with_bias(platform=GPU),
        mesh=TOWERS,
        in_specs=(data, all_devices, data),
        out_specs=(data, data, all_devices),
    )
    text = lowered(mapped, 'cuda', x, bias, g, mesh=TOWERS)
    assert text.count('custom_call @__gpu$xla.gpu.triton(') == 2
    assert text.count('stablehlo.all_reduce') == 1


@pytest.mark.parametrize(('shape', 'constants', 'pool'), [CASES[2], CASES[3], CASES[10]])
def test_lowers_for_other_pools_under_vmap(shape, constants, pool):
    x = draw((2, *shape))
    g = jax.vmap(functools.partial(cotangent, pool=pool))(x)
    function = with_bias(constants, pool, rectify=False, platform=GPU)
    mapped = jax.vmap(function, in_axes=(0, None, 0))
    text = lowered(mapped, 'cuda', x, draw_bias(x), g)
    assert text.count('custom_call @__gpu$xla.gpu.triton(') == 2


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_thread_loads_nothing_twice_and_stores_16_bytes_at_a_time(dtype):
    """It has a segment of eight maps, windows of five, and two pools or a block of four pixels."""
    x = jax.ShapeDtypeStruct((8, *SHAPES['conv1']), dtype)
    g = jax.eval_shape(functools.partial(max_pooling, **POOL), x)
    for call, maps in zip(kernel_calls(for_gpu(), x, g), [15 * 12, 4 * 12 + 4 * 16], strict=True):
        accesses = {'masked_load': [], 'masked_swap': []}
        for equation in call.params['jaxpr'].eqns:
            if equation.primitive.name in accesses:
                accesses[equation.primitive.name].append(equation.outvars[0].aval)
        # Forward 12 maps of 5 x 3 pixels; backward 12 maps of the cotangent for 4 pools, and 16
        # maps of 4 pixels.
        loads = [a.shape[1] for a in accesses['masked_load'] if a.dtype == x.dtype]
        assert sum(loads) == maps
        assert max(loads) * x.dtype.itemsize == 16
        assert {a.shape[1] * a.dtype.itemsize for a in accesses['masked_swap']} == {16}


def test_the_mask_is_written_for_the_derivative_only():
    x = jax.ShapeDtypeStruct((8, 5, 5, 48), jnp.bfloat16)
    function = functools.partial(
        normalized_pooling, **PAPER, **POOL, implementation='pallas', platform=GPU
    )
    assert 'xi32>' not in lowered(function, 'cuda', x)
    assert 'xi32>' in lowered(for_gpu(), 'cuda', x, jax.ShapeDtypeStruct((8, 2, 2, 48), x.dtype))


def test_the_cpu_uses_the_two_functions_in_jax():
    x = draw((2, 7, 7, 12))
    g = cotangent(x, POOL)
    programs = [lowered(both(implementation=name), 'cpu', x, g) for name in (None, 'jax')]
    assert programs[0] == programs[1]
    assert not module._kernel_works(Platform.default())


def test_a_gpu_uses_the_kernel_where_it_works_and_suits(monkeypatch):
    def uses_kernel(shape, window=3, dtype=jnp.float32):
        function = functools.partial(
            normalized_pooling, **PAPER, window=window, stride=2, platform=GPU
        )
        jaxpr = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype))
        return KERNELS[0] in str(jaxpr)

    monkeypatch.setattr(module, '_kernel_works', lambda _: True)
    assert uses_kernel((2, 9, 9, 8))
    assert uses_kernel((2, 9, 9, 8), window=5)
    assert not uses_kernel((2, 9, 9, 8), window=6)
    assert uses_kernel((2**15 - 1, 2**6, 2**6, 2**4))
    assert not uses_kernel((2**15, 2**6, 2**6, 2**4))
    assert not uses_kernel((0, 9, 9, 8))
    assert uses_kernel((2, 9, 9, 8), dtype=jnp.bfloat16)
    monkeypatch.setattr(module, '_kernel_works', lambda _: False)
    assert not uses_kernel((2, 9, 9, 8))


def test_a_tpu_uses_the_kernels_of_response_normalization():
    x, g = draw((2, 7, 7, 12)), cotangent(draw((2, 7, 7, 12)), POOL)
    text = lowered(both(platform=TPU), 'tpu', x, g)
    assert text.count('custom_call @tpu_custom_call(') == 2
    assert not any(name in text for name in KERNELS)


@pytest.mark.slow
def test_is_tried_before_it_is_used(short_kernels, monkeypatch):
    """A kernel that fails or gives wrong results is not used.

    The trial also works while a step for several devices is traced.
    """
    agrees, CPU = module._kernel_agrees, Platform('cpu')
    mesh = jax.make_mesh((2,), ('tower',), axis_types=(AxisType.Auto,))
    results = []

    def function(x):
        results.append(agrees(CPU, interpret=True))
        return x

    mapped = jax.shard_map(function, mesh=mesh, in_specs=P('tower'), out_specs=P('tower'))
    jax.jit(mapped).trace(np.ones(2))
    assert results == [True]
    assert not agrees(CPU, interpret=False)  # there is no GPU
    cotangent = kernels._cotangent
    monkeypatch.setattr(kernels, '_cotangent', lambda *arguments: 1.01 * cotangent(*arguments))
    assert not agrees(CPU, interpret=True)


def test_refuses_invalid_arguments():
    function = functools.partial(normalized_pooling, **PAPER, stride=2)
    with pytest.raises(ValueError, match=r"implementation='cuda' is not one of"):
        function(draw((1, 5, 5, 4)), window=3, implementation='cuda')
    with pytest.raises(ValueError, match='a window of 6 pixels: the kernel takes at most 5'):
        function(draw((1, 7, 7, 4)), window=6, implementation='pallas')
    more = jax.ShapeDtypeStruct((2**15, 2**6, 2**6, 2**4), jnp.bfloat16)
    with pytest.raises(ValueError, match=r'2\*\*31 elements or more'):
        jax.eval_shape(functools.partial(function, window=3, implementation='pallas'), more)


def test_no_images_give_no_images():
    x = np.zeros((0, 7, 7, 8), np.float32)
    y, dx = both()(x, np.zeros((0, 3, 3, 8), np.float32))
    assert (y.shape, dx.shape) == ((0, 3, 3, 8), x.shape)


@pytest.mark.parametrize(
    ('then', 'calls'),
    [
        (('relu', 'response_normalization', 'max_pooling'), [True]),
        (('response_normalization', 'max_pooling', 'relu'), [False]),
        (('relu', 'max_pooling', 'response_normalization'), []),
        (('max_pooling', 'response_normalization', 'relu', 'max_pooling'), []),
    ],
)
def test_a_layer_agrees_between_implementations(then, calls, monkeypatch):
    """The layer uses the fused function only where pooling directly follows normalization."""
    rectified = []

    def spy(x, *arguments, rectify=False, **options):
        rectified.append(rectify)
        return normalized_pooling(x, *arguments, rectify=rectify, **options)

    config = nets.small(model__conv1__then=then, model__response_normalization__alpha=0.02)
    row = layer_table(config)[0]
    net = layers.Convolution(row, config.model, rng=np.random.default_rng(0))
    x = jnp.asarray(nets.images(config, 2))[:, :31, :31]
    monkeypatch.setattr(operations, 'normalized_pooling', spy)
    net.operations = dataclasses.replace(net.operations, implementation='jax')
    maps = net([x, x])
    assert rectified == calls * 2
    if calls:
        devices.use_guarded_memory(monkeypatch)
        net.operations = dataclasses.replace(net.operations, implementation='pallas', platform=GPU)
        for actual, expected in zip(net([x, x]), maps, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_net_agrees_between_implementations(short_kernels, monkeypatch):
    """The derivative of a function of the logits is compared for every parameter."""
    config = nets.small(augmentation__crop=32, model__width=0.0625, model__towers=1)
    params, x = alexnet.initialize(config), nets.images(config, 1)
    graph, mesh = alexnet.graph(config), nets.mesh_of(1)
    replicated = towers.spec(mesh, 'step')

    def gradient(implementation):
        def replacement(x, *arguments, **options):
            options = options | {'implementation': implementation}
            return normalized_pooling(x, *arguments, **options)

        monkeypatch.setattr(operations, 'normalized_pooling', replacement)
        net = jax.shard_map(
            lambda params: jnp.sin(alexnet.apply(graph, params, x)),
            mesh=mesh,
            in_specs=replicated,
            out_specs=replicated,
            check_vma=False,  # see test_inside_a_shard_map_over_two_devices
        )
        derivative = jax.grad(lambda params: net(params).sum())
        traced = jax.jit(derivative).trace(params)
        assert ('pallas_call' in str(traced.jaxpr)) == (implementation == 'pallas')
        compiled = traced.lower().compile(compiler_options=devices.UNOPTIMIZED)
        return jax.tree.leaves(compiled(params))

    for actual, expected in zip(gradient('pallas'), gradient('jax'), strict=True):
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * largest)
