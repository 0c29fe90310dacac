"""Descriptions of the GPUs and TPUs that programs can be compiled for, and their rates.

What the compiler is told about a GPU are the numbers of OpenXLA's own descriptions
(xla/backends/gpu/target_config/specs). The rates for the bound are those of the data sheets: bytes
per second of the device memory, and dense floating-point operations per second.
"""

import dataclasses
from typing import Any

from jax.experimental import topologies

CUDA, CUDNN = '13.0.0', '9.12.0'


@dataclasses.dataclass(frozen=True)
class Rates:
    """The rates of a device, by its data sheet.

    Attributes:
      bandwidth: bytes per second of the device memory.
      bfloat16: operations per second of products in bfloat16.
      default: the same for float32 at `model.precision='default'`: in TF32 on GPUs, in one pass of
        bfloat16 on TPUs.
      highest: the same for float32 at `model.precision='highest'`.
    """

    bandwidth: float
    bfloat16: float
    default: float
    highest: float

    def of_products(self, dtype: str, precision: str) -> float:
        """Returns the operations per second of products in a dtype."""
        if dtype == 'bfloat16':
            return self.bfloat16
        return self.highest if precision == 'highest' else self.default


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A kind of NVIDIA GPU.

    Attributes:
      kind: the name that the driver gives it.
      capability: its compute capability.
      cores: streaming multiprocessors.
      units: float32 units of each of them.
      shared, shared_per_block: bytes of shared memory of each of them, and of a block at most.
      cache: bytes of the second-level cache.
      memory: bytes of the device memory.
      clock: GHz.
      rates: see `Rates`.
      threads: the most threads of a multiprocessor.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    units: int
    shared: int
    shared_per_block: int
    cache: int
    memory: int
    clock: float
    rates: Rates
    threads: int = 2048

    platform = 'gpu'

    def devices(self, number: int) -> list[Any]:
        """Describes so many GPUs of one host, for compilation."""
        description = topologies.get_topology_desc(
            platform='cuda', target_config=self._target(), topology=f'1x1x{number}'
        )
        return list(description.devices)

    def _target(self) -> str:
        """Returns XLA's GpuTargetConfigProto as text."""
        major, minor = self.capability
        feature = 'ACCELERATED_FEATURES' if major >= 9 else 'NONE'
        numbers = {
            'threads_per_block_limit': 1024,
            'threads_per_warp': 32,
            'shared_memory_per_block': 49152,
            'shared_memory_per_core': self.shared,
            'threads_per_core_limit': self.threads,
            'core_count': self.cores,
            'fpus_per_core': self.units,
            'block_dim_limit_x': 2**31 - 1,
            'block_dim_limit_y': 65535,
            'block_dim_limit_z': 65535,
            'memory_bandwidth': int(self.rates.bandwidth),
            'l2_cache_size': self.cache,
            'clock_rate_ghz': self.clock,
            'device_memory_size': self.memory,
            'shared_memory_per_block_optin': self.shared_per_block,
            'registers_per_core_limit': 65536,
            'registers_per_block_limit': 65536,
            'thread_dim_limit_x': 1024,
            'thread_dim_limit_y': 1024,
            'thread_dim_limit_z': 64,
        }
        texts = {
            'device_vendor': 'NVIDIA Corporation',
            'device_address_bits': 64,
            'name': self.kind,
            'driver_version': CUDA,
            'runtime_version': CUDA,
            'compile_time_toolkit_version': CUDA,
            'dnn_version': CUDNN,
        }
        fields = [f'{name}: {value}' for name, value in numbers.items()]
        fields += [
            f'{name}: {value}' if isinstance(value, int) else f'{name}: "{value}"'
            for name, value in texts.items()
        ]
        fields.append(
            f'cuda_compute_capability {{ major: {major} minor: {minor} '
            f'feature_extension: {feature} }}'
        )
        cuda, cudnn = CUDA.split('.'), CUDNN.split('.')
        return (
            f'gpu_device_info {{ {" ".join(fields)} }} platform_name: "CUDA" '
            f'dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} }} '
            f'runtime_version {{ major: {cuda[0]} }} device_description_str: "{self.kind}"'
        )


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A kind of TPU.

    Attributes:
      kind: its name for people.
      topology: the name of the smallest topology that libtpu describes.
      memory: bytes of the device memory.
      rates: see `Rates`.
    """

    kind: str
    topology: str
    memory: int
    rates: Rates

    platform = 'tpu'

    def devices(self, number: int) -> list[Any]:
        """Describes so many TPU cores, for compilation."""
        description = topologies.get_topology_desc(platform='tpu', topology_name=self.topology)
        return list(description.devices)[:number]


# Bandwidth, then operations in bfloat16, TF32 and float32, in units of 10^12 a second.
_RATES = {
    't4': (0.32, 8.1, 8.1, 8.1),
    'a100': (2.039, 312, 156, 19.5),
    'h100': (3.352, 989, 495, 67),
    'h200': (4.8, 989, 495, 67),
    'b200': (7.672, 2250, 1125, 75),
    'rtx_a6000': (0.768, 155, 77.4, 38.7),
    # Each float32 product takes six passes in bfloat16 at the highest precision.
    'v5e': (0.819, 197, 197, 197 / 6),
    'v6e': (1.64, 918, 918, 918 / 6),
}
_RATES = {name: Rates(*(x * 1e12 for x in rates)) for name, rates in _RATES.items()}

_H100 = Gpu(
    'NVIDIA H100 80GB HBM3',
    (9, 0),
    cores=132,
    units=128,
    shared=233472,
    shared_per_block=232448,
    cache=52428800,
    memory=84942979072,
    clock=1.98,
    rates=_RATES['h100'],
)

DEVICES: dict[str, Gpu | Tpu] = {
    # Triton refuses GPUs before Ampere: on this one plain JAX runs in place of the kernels. CUDA 13
    # does not compile for older ones.
    't4': Gpu(
        'Tesla T4',
        (7, 5),
        cores=40,
        units=64,
        shared=65536,
        shared_per_block=65536,
        cache=4194304,
        memory=15642329088,
        clock=1.59,
        rates=_RATES['t4'],
        threads=1024,
    ),
    'a100': Gpu(
        'NVIDIA A100-SXM4-80GB',
        (8, 0),
        cores=108,
        units=64,
        shared=167936,
        shared_per_block=166912,
        cache=41943040,
        memory=85100068864,
        clock=1.41,
        rates=_RATES['a100'],
    ),
    'h100': _H100,
    'h200': dataclasses.replace(
        _H100, kind='NVIDIA H200', memory=151397597184, rates=_RATES['h200']
    ),
    'b200': dataclasses.replace(
        _H100,
        kind='NVIDIA B200',
        capability=(10, 0),
        cores=148,
        cache=132644864,
        memory=191514411008,
        clock=1.965,
        rates=_RATES['b200'],
    ),
    'rtx_a6000': Gpu(
        'NVIDIA RTX A6000',
        (8, 6),
        cores=84,
        units=128,
        shared=102400,
        shared_per_block=101376,
        cache=6291456,
        memory=51041271808,
        clock=1.8,
        rates=_RATES['rtx_a6000'],
        threads=1536,
    ),
    'v5e': Tpu('TPU v5e', 'v5e:2x2', 16 * 2**30, _RATES['v5e']),
    'v6e': Tpu('TPU v6e', 'v6e:2x2', 32 * 2**30, _RATES['v6e']),
}
