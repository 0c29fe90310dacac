"""The kernels of triton/ and tpu/, interpreted, compared with the formula and lowered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import devices
import reference
from alexnet_jax.ops import kernel_arrays
from alexnet_jax.ops.formula import SHAPES, Formula
from alexnet_jax.ops.tpu import response_normalization as tpu_kernels
from alexnet_jax.ops.triton import response_normalization as gpu_kernels
from alexnet_jax.ops.triton import segments
from devices import TOWERS, kernel_calls, lowered, run

PAPER = dict(size=5, k=2.0, alpha=1e-4, beta=0.75)
# (shape, constants): maps in segments of four, two and one; pixels that do not fill the blocks;
# windows of an even number of maps, of one map, and of more maps than there are.
CASES = [
    ((3, 3, 3, 48), PAPER),
    ((1, 5, 3, 96), PAPER),
    ((2, 3, 1, 128), PAPER),
    ((11, 5), PAPER),
    ((5,), PAPER),
    ((2, 2, 3, 4), PAPER),
    ((2, 2, 3, 1), PAPER),
    ((3, 1, 3, 6), dict(size=4, k=1.0, alpha=2e-5, beta=0.5)),
    ((2, 2, 3, 12), dict(size=1, k=2.0, alpha=1e-4, beta=1.0)),
    ((2, 2, 3, 3), dict(size=7, k=2.0, alpha=1e-4, beta=0.75)),
]
KERNELS = {'gpu': gpu_kernels, 'tpu': tpu_kernels}
# (target, platform that JAX lowers for, custom call that runs a kernel).
DEVICES = [('gpu', 'cuda', '__gpu$xla.gpu.triton'), ('tpu', 'tpu', 'tpu_custom_call')]

each_target = pytest.mark.parametrize('target', ['gpu', 'tpu'])
each_device = pytest.mark.parametrize(('target', 'platform', 'custom_call'), DEVICES)


def draw(shape, seed, dtype=np.float32):
    """Draws values as large as in conv1's maps, and zeros.

    So alpha times a square is not small compared with k.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 100, shape) * (rng.random(shape) > 0.1)
    return x.astype(np.float32).astype(dtype)


def both(target, constants=PAPER, rectify=False, interpret=True):
    """Returns the function from x and g to y and dx."""
    kernels = KERNELS[target]
    options = dict(formula=Formula(**constants, rectify=rectify), interpret=interpret)

    def function(x, g):
        return kernels.forward(x, **options), kernels.backward(x, g, **options)

    return function


def assert_agrees(results, x, g, constants, rectify, tolerance):
    """Checks y within tolerance times |y|, and dx within tolerance times its terms.

    These are the two terms whose difference is dx.
    """
    x, g = reference.float64(x), reference.float64(g)
    r = reference.relu(x) if rectify else x
    y = reference.response_normalization(r, **constants, groups=1)
    dx = reference.response_normalization_vjp(r, g, **constants, groups=1)
    dx = np.where(x > 0, dx, 0) if rectify else dx  # jax.nn.relu's derivative at 0 is 0
    # The sum of the terms: |g| S^-beta + 2 alpha beta |r| sum |g r| S^(-beta - 1).
    size, k, alpha, beta = constants.values()
    scaled = abs(g) * reference.response_scale(r, size, k, alpha, groups=1) ** -beta
    difference = reference.response_normalization_vjp(abs(r), abs(g), **constants, groups=1)
    terms = 2 * scaled - difference
    for actual, expected, magnitude in zip(results, (y, dx), (abs(y), terms), strict=True):
        assert actual.shape == expected.shape
        assert np.max(abs(reference.float64(actual) - expected) - tolerance * magnitude) <= 0


@each_target
@pytest.mark.parametrize(('shape', 'constants'), CASES)
def test_agrees_with_the_formula(target, shape, constants):
    x, g = draw(shape, 0), draw(shape, 1)
    results = run(both(target, constants), x, g)
    assert [a.dtype for a in results] == [jnp.float32] * 2
    assert_agrees(results, x, g, constants, False, tolerance=1e-6)


@each_target
@pytest.mark.parametrize(('shape', 'constants'), [CASES[3], CASES[7]])
def test_rectifies_first(target, shape, constants):
    """The kernel applies a ReLU before the formula; a tenth of x is 0."""
    x, g = draw(shape, 0), draw(shape, 1)
    results = run(both(target, constants, rectify=True), x, g)
    assert_agrees(results, x, g, constants, True, tolerance=1e-6)


@each_target
@pytest.mark.parametrize(('shape', 'constants'), [CASES[0], CASES[7]])
def test_bfloat16_is_rounded_once(target, shape, constants):
    """The arithmetic is in float32, so only rounding the result to 8 bits loses digits."""
    x, g = draw(shape, 0, jnp.bfloat16), draw(shape, 1, jnp.bfloat16)
    results = run(both(target, constants, rectify=True), x, g)
    assert [a.dtype for a in results] == [jnp.bfloat16] * 2
    assert_agrees(results, x, g, constants, rectify=True, tolerance=2**-8 + 1e-6)


@each_target
def test_several_blocks_with_a_ragged_end(target, monkeypatch):
    monkeypatch.setattr(kernel_arrays, 'INTERPRETED_BLOCK', 16)
    monkeypatch.setattr(segments, 'LONGEST', 4)
    x, g = draw((3, 3, 5, 12), 0), draw((3, 3, 5, 12), 1)
    # Blocks of 16, of the 135 segments of four maps or of the 45 pixels.
    blocks = {'gpu': 9, 'tpu': 3}[target]
    assert {call.params['grid_mapping'].grid for call in kernel_calls(both(target), x, x)} == {
        (blocks,)
    }
    assert_agrees(run(both(target), x, g), x, g, PAPER, False, tolerance=1e-6)


@pytest.mark.parametrize('shape', [(3, 5, 5, 48), (13, 5, 5)])
def test_gpu_stays_inside_its_arrays_and_writes_every_address_once(shape, monkeypatch):
    """Interpret mode does not notice an address outside an array.

    There are several blocks of the real size.
    """
    devices.use_guarded_memory(monkeypatch)
    x, g = draw(shape, 0), draw(shape, 1)
    results = both('gpu', interpret=False)(x, g)
    assert_agrees(results, x, g, PAPER, False, tolerance=1e-6)


@each_target
def test_derivative_agrees_with_differences(target):
    """Central differences do not need the formula; they avoid the kink of the ReLU."""
    x, g, direction = draw((2, 3, 12), 0), draw((2, 3, 12), 1), draw((2, 3, 12), 2)
    function = both(target, rectify=True)
    direction = np.where(abs(x) > 10, direction, 0) / 100
    ahead, behind = (
        reference.float64(run(function, x + sign * direction, g)[0]) for sign in (1, -1)
    )
    slope = np.sum(g * (ahead - behind)) / 2
    assert np.sum(run(function, x, g)[1] * direction) == pytest.approx(slope, rel=1e-3)


@each_target
def test_nan_stays_in_its_pixel(target):
    """A NaN must appear in the result, also after the ReLU, but in no other pixel of a block."""
    x, g = draw((4, 3, 12), 0), draw((4, 3, 12), 1)
    x[1, 1, 5] = np.nan
    for result in run(both(target, rectify=True), x, g):
        assert np.isnan(result[1, 1]).any()
        assert np.argwhere(np.isnan(result))[:, :2].tolist() == [[1, 1]] * np.isnan(result).sum()


@each_target
def test_under_vmap(target):
    x, g = draw((2, 3, 2, 8), 0), draw((2, 3, 2, 8), 1)
    results = run(jax.vmap(both(target), in_axes=1, out_axes=1), x, g)
    assert_agrees(results, x, g, PAPER, False, tolerance=1e-6)


@each_target
def test_inside_a_shard_map_over_two_devices(target):
    x, g = draw((4, 3, 8), 0), draw((4, 3, 8), 1)
    mesh = jax.make_mesh((1, 2), ('data', 'tower'), axis_types=(AxisType.Auto,) * 2)
    specs = P(('tower', 'data'))
    # check_vma=True refuses interpreted kernels, which mix constants with values that vary.
    mapped = jax.shard_map(
        both(target), mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False
    )
    results = run(mapped, x, g)
    assert len(results[0].sharding.device_set) == 2
    assert_agrees(results, x, g, PAPER, False, tolerance=1e-6)


@each_target
def test_no_images_give_no_images(target):
    x = np.zeros((0, 3, 3, 8), np.float32)
    assert [a.shape for a in both(target)(x, x)] == [x.shape] * 2


@each_device
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_lowers_at_full_size(target, platform, custom_call, shape, dtype):
    x = jax.ShapeDtypeStruct((128, *shape), dtype)
    text = lowered(both(target, rectify=True, interpret=False), platform, x, x)
    assert text.count(f'custom_call @{custom_call}(') == 2
    assert 'response_normalization_forward' in text
    assert 'response_normalization_backward' in text
    assert 'maxnum' not in text  # Triton's maximum, which turns a NaN into 0


@each_device
@pytest.mark.parametrize('maps', [1, 5, 6, 96])
def test_lowers_for_other_maps_and_constants_under_vmap(target, platform, custom_call, maps):
    x = jax.ShapeDtypeStruct((3, 7, maps), jnp.float32)
    constants = dict(size=4, k=1.0, alpha=2e-5, beta=0.5)
    text = lowered(jax.vmap(both(target, constants, interpret=False)), platform, x, x)
    assert text.count(f'custom_call @{custom_call}(') == 2


@each_device
@pytest.mark.parametrize('varying', [P('tower'), P(('tower', 'data'))])
def test_lowers_inside_a_checked_shard_map(target, platform, custom_call, varying):
    """With check_vma=True, a kernel must declare over which axes of the mesh its result varies."""
    x = jax.ShapeDtypeStruct((8, 7, 48), jnp.float32)
    mapped = jax.shard_map(
        both(target, interpret=False), mesh=TOWERS, in_specs=varying, out_specs=varying
    )
    text = lowered(mapped, platform, x, x, mesh=TOWERS)
    assert text.count(f'custom_call @{custom_call}(') == 2


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gpu_loads_each_neighbour_once_as_wide_as_16_bytes(dtype):
    """With windows of five, a segment of eight maps loads only what its results depend on."""
    x = jax.ShapeDtypeStruct((128, *SHAPES['conv1']), dtype)
    counts = []
    for call in kernel_calls(both('gpu', interpret=False), x, x):
        accesses = {'masked_load': [], 'masked_swap': []}
        for equation in call.params['jaxpr'].eqns:
            if equation.primitive.name in accesses:
                width = equation.outvars[0].aval.shape[1]
                accesses[equation.primitive.name].append(width * x.dtype.itemsize)
        counts.append([sorted(widths) for widths in accesses.values()])
    if dtype == 'float32':
        # Maps -2 to 9 of x; then -4 to 11 of x, and -2 to 9 of the cotangent.
        assert counts == [[[8, 8, 16, 16], [16, 16]], [[8, 8, 16, 16, 16, 16, 16, 16], [16, 16]]]
    else:
        assert counts == [[[4, 4, 16], [16]], [[4, 4, 8, 8, 16, 16], [16]]]


@each_target
def test_refuses_arrays_that_an_int32_cannot_index(target):
    function = both(target, interpret=False)
    most = jax.ShapeDtypeStruct((2**31 // 32 - 1, 32), jnp.bfloat16)
    assert jax.eval_shape(function, most, most)[1].shape == most.shape
    more = jax.ShapeDtypeStruct((2**31 // 32, 32), jnp.bfloat16)
    with pytest.raises(ValueError, match=r'2\*\*31 elements or more'):
        jax.eval_shape(function, more, more)


def test_refuses_invalid_arguments():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(ValueError, match=r'the cotangent of float32\[2,8\] is float32\[1,8\]'):
        both('gpu')(x, x[:1])
    with pytest.raises(ValueError, match=r'the cotangent of float32\[2,8\] is bfloat16\[2,8\]'):
        both('tpu')(x, x.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match='1025 maps'):
        both('tpu')(*np.ones((2, 1, 1025), np.float32))
