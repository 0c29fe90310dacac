"""Ways to test kernels without their device: guarded memory, interpretation and lowering."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

# Where there is no GPU, JAX 0.12 needs to know which one it lowers for.
GPU = AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu')
NO_MESH = AbstractMesh((), (), abstract_device=GPU)
TOWERS = AbstractMesh((2, 2), ('data', 'tower'), (AxisType.Auto,) * 2, abstract_device=GPU)

# LLVM's optimizations take half of the time to compile a training step, and more for interpreted
# kernels.
UNOPTIMIZED = {'xla_backend_optimization_level': 0}


def run(function, *arrays):
    """Compiles a function without LLVM's optimizations, and calls it."""
    return jax.jit(function, compiler_options=UNOPTIMIZED)(*arrays)


def lowered(function, platform, *arguments, mesh=NO_MESH):
    """Returns the text of a function's program for another platform."""
    with use_abstract_mesh(mesh):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def kernel_calls(function, *arrays):
    """Returns the pallas_call equations of a function."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    equations = jax.make_jaxpr(function)(*shapes).eqns
    return [equation for equation in equations if equation.primitive.name == 'pallas_call']


def use_guarded_memory(monkeypatch):
    """Makes GPU kernels run block by block in NumPy, and fail at an address outside an array."""
    call = functools.partial(Memory.pallas_call, monkeypatch=monkeypatch)
    monkeypatch.setattr(pl, 'pallas_call', call)
    monkeypatch.setattr(plgpu, 'load', Memory.load)
    monkeypatch.setattr(plgpu, 'store', Memory.store)
    monkeypatch.setattr(plgpu, 'elementwise_inline_asm', emulate)
    monkeypatch.setattr(jax.lax, 'fori_loop', loop)  # an address must be a number


def loop(lower, upper, body, value):
    """Does what jax.lax.fori_loop does, without tracing."""
    for i in range(lower, upper):
        value = body(i, value)
    return value


def emulate(assembly, *, args, constraints, pack, result_shape_dtypes):
    """Computes an instruction for a GPU on arrays, with `$0` for its result."""
    name, _, operands = assembly.partition(' ')
    assert operands == ', '.join(f'${i}' for i in range(len(args) + 1)) + ';'
    assert (constraints, pack) == (','.join(['=f'] + ['f'] * len(args)), 1)
    assert all(a.shape == args[0].shape and a.dtype == np.float32 for a in args)
    result = INSTRUCTIONS[name](*args)
    assert [(a.shape, a.dtype) for a in result_shape_dtypes] == [(result.shape, result.dtype)]
    return [result]


INSTRUCTIONS = {
    'rsqrt.approx.ftz.f32': jax.lax.rsqrt,
    'max.NaN.f32': jnp.maximum,
    'fma.rn.f32': lambda a, b, c: a * b + c,
}


class Memory:
    """A flat array that replaces a kernel's array, and counts the writes to each address."""

    def __init__(self, values):
        self.values, self.dtype = np.array(values), values.dtype
        self.writes = np.zeros(len(values), int)

    at = property(lambda self: self)

    def __getitem__(self, index):
        return self, np.asarray(index)

    @staticmethod
    def load(place, *, mask, other):
        (self, index), mask = place, np.asarray(mask)
        assert np.all((index >= 0) & (index < len(self.values)), where=mask)
        values = np.full(index.shape, other, self.dtype)
        values[mask] = self.values[index[mask]]
        return jnp.asarray(values)

    @staticmethod
    def store(place, values, *, mask):
        (self, index), mask = place, np.asarray(mask)
        assert np.all((index >= 0) & (index < len(self.values)), where=mask)
        self.values[index[mask]] = np.asarray(values)[mask]
        np.add.at(self.writes, index[mask], 1)

    @classmethod
    def pallas_call(cls, kernel, *, out_shape, grid, monkeypatch, **_):
        blank = [np.zeros(a.shape, a.dtype) for a in out_shape]

        def call(*arrays):
            inputs, results = [cls(a) for a in arrays], [cls(a) for a in blank]
            for program in range(*grid):
                monkeypatch.setattr(pl, 'program_id', lambda _, program=program: program)
                kernel(*inputs, *results)
            assert all(np.all(result.writes == 1) for result in results)
            return [jnp.asarray(result.values) for result in results]

        return call
