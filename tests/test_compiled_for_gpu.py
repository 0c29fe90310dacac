"""The programs that GPUs and TPUs run, compiled by benchmarks/compile_for.py without such a device.

The compilers are not in the environment of the other tests: `python benchmarks/compile_for.py
--install` puts them in build/. Without them the tests are skipped, or fail where CI_COMPILERS is
set. What a program moves and needs may not grow beyond the table below.
"""

import collections
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest

import nets

sys.path.append(str(nets.ROOT / 'benchmarks'))

import scaling_model
from ahead_of_time import packages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not packages.default_folder().is_dir() and 'CI_COMPILERS' not in os.environ,
        reason='the compilers are not installed: python benchmarks/compile_for.py --install',
    ),
]

HAS_MOSAIC_GPU = jax.__version_info__ >= (0, 12)
# JAX 0.12 leaves the PTX out of XLA's dump.
needs_ptx = pytest.mark.skipif(HAS_MOSAIC_GPU, reason='this version of JAX does not write PTX')
GPUS = ('a100', 'h100', 'b200')  # sm_80, sm_90, sm_100
DTYPES = ('float32', 'bfloat16')


@functools.cache
def compile_for(*flags: str) -> tuple[dict, str]:
    """Returns the report of the program, and what it printed to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, 'benchmarks/compile_for.py', *flags, f'--out={folder}']
        # Without what conftest.py sets for the tests on CPU devices.
        environment = {n: x for n, x in os.environ.items() if not n.startswith(('JAX_', 'XLA_'))}
        result = subprocess.run(
            command, cwd=nets.ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert not result.returncode, result.stderr[-2000:]
        report = json.loads((Path(folder) / 'report.json').read_text())
    return report, result.stderr


def step(*flags: str) -> dict:
    return compile_for(*flags)[0]['step']


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('device', GPUS)
def test_every_kernel_compiles(device, dtype):
    reports, warnings = compile_for(f'--device={device}', '--what=kernels', f'--dtype={dtype}')
    operations = ('response_normalization', 'normalized_pooling')
    for operation in operations:
        for layer in ('conv1', 'conv2'):
            for direction in ('forward', 'backward'):
                report = reports[f'{operation} {layer} {dtype} {direction}']
                assert f'{operation}_{direction}' in report['kernels']
                assert not [usage for usage in report['registers'] if usage['spills']]
    assert not warnings


@pytest.mark.skipif(not HAS_MOSAIC_GPU, reason='Mosaic GPU has what the kernels need from JAX 0.12')
@pytest.mark.parametrize('device', ['h100', 'b200'])
def test_the_mosaic_gpu_kernels_compile(device):
    flags = f'--device={device}', '--what=kernels', '--implementation=mosaic_gpu'
    reports, _ = compile_for(*flags)
    assert len(reports) == 4
    for name, report in reports.items():  # the programs of the derivative also return y
        launches = 2 if name.endswith('backward') else 1
        assert report['by_kind']['kernel'][0] == launches, name


def test_before_ampere_plain_jax_runs_in_place_of_the_kernels():
    reports, warnings = compile_for('--device=t4', '--batch=32')
    assert 'kernel' not in reports['step']['by_kind']
    assert warnings.count('response normalization runs without its gpu kernel') == 1


# By dtype and batch on one H100: megabytes for each image, launches, MiB of temporaries. As of
# 2026-11-26, JAX 0.10.2. Numbers may fall; a change that raises one says why in docs/log.md.
GUARDS = {
    ('float32', 1024): (26.35, 118, 4089),
    ('bfloat16', 1024): (14.37, 111, 2233),
    ('float32', 128): (40.91, 122, 654),
    ('bfloat16', 128): (28.06, 117, 392),
}
# Registers of a thread, and the bytes of its widest access to the device memory, likewise.
KERNELS = {
    'normalized_pooling_forward': (73, 16),
    'normalized_pooling_backward': (128, 16),
    'small_updates': (64, 16),
}


@pytest.mark.parametrize(('dtype', 'batch'), GUARDS)
def test_a_step_moves_no_more_than_before(dtype, batch):
    report = step('--device=h100', f'--dtype={dtype}', f'--batch={batch}')
    megabytes, launches, temporaries = GUARDS[dtype, batch]
    assert report['bytes'] / 1e6 / batch <= megabytes
    assert report['launches'] <= launches + HAS_MOSAIC_GPU  # JAX 0.12 has one more
    assert report['memory']['temporaries'] / 2**20 <= temporaries
    assert report['memory']['results'] < 2**20  # the new state takes the old one's place


@needs_ptx
@pytest.mark.parametrize('dtype', DTYPES)
def test_the_kernels_of_a_step_spill_no_registers_and_use_no_more_than_before(dtype):
    report = step('--device=h100', f'--dtype={dtype}', '--batch=1024')
    assert not [usage for usage in report['registers'] if usage['spills']]
    assert set(report['kernels']) == set(KERNELS)
    for name, (registers, width) in KERNELS.items():
        usages = [u for u in report['registers'] if u['kernel'].partition('__')[0] == name]
        assert usages
        assert max(usage['registers'] for usage in usages) <= registers
        assert min(usage['widest'] for usage in usages) >= width


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_step_runs_the_kernels_without_transposes_or_scatters(dtype):
    report = step('--device=h100', f'--dtype={dtype}', '--batch=1024')
    # Forward and backward of two layers in two towers, and the update of the small arrays.
    assert report['by_kind']['kernel'][0] == 9
    assert report['by_kind']['convolution'][0] == 2 * (5 + 5 + 4)
    # Of the images alone, when blocks of 4x4 pixels become the maps that conv1 reads.
    assert [shape.partition(',')[2] for shape in report['transposes']] == ['57,57,4,4,3]']
    assert not report['select_and_scatters']


@needs_ptx
def test_a_deterministic_program_is_told_so_and_adds_in_a_fixed_order():
    """Atomic additions of integers give the same sum in any order."""
    flags = '--device=h100', '--dtype=bfloat16', '--batch=1024'
    deterministic = *flags, '--config.deterministic=true'
    evaluation = compile_for(*deterministic, '--what=evaluation')[0]['evaluation']
    expected = {'xla_gpu_deterministic_ops: true', 'xla_gpu_enable_triton_gemm: false'}
    for report in (step(*deterministic), evaluation):
        assert expected <= set(report['options'])
        atomics = [name for name in report['ptx'] if name.startswith(('atom', 'red'))]
        assert all(name.endswith(('.add.u32', '.add.s32')) for name in atomics)
    assert not expected & set(step(*flags)['options'])


@needs_ptx
def test_the_products_are_tf32_by_default_alone():
    flags = '--device=h100', '--dtype=float32', '--batch=128'
    default, highest = step(*flags), step(*flags, '--config.model.precision=highest')
    assert any('tf32' in name for name in default['ptx'])
    assert not any('tf32' in name for name in highest['ptx'])
    assert highest['launches'] == default['launches']


def counted(report: dict) -> collections.Counter:
    return collections.Counter(
        (each['operation'], each['is_backward']) for each in report['collectives']
    )


TOWERS_MEET = {  # maps before conv3, units before fc6 and fc7, and the products of fc8
    ('all-gather', False): 3,
    ('all-reduce', False): 1,
    ('reduce-scatter', True): 3,
}


def test_one_device_needs_no_collectives():
    assert not counted(step('--device=h100', '--dtype=bfloat16', '--batch=1024'))


def test_towers_on_two_devices_meet_as_in_the_paper():
    report = step('--device=h100', '--dtype=bfloat16', '--batch=1024', '--mesh.tower=2')
    assert counted(report) == TOWERS_MEET


def test_replicas_also_sum_their_gradients():
    flags = '--device=h100', '--dtype=bfloat16', '--batch=1024', '--mesh.tower=2', '--mesh.data=2'
    report = step(*flags)
    assert counted(report) == TOWERS_MEET | {('all-reduce', True): 3}
    pairs = {each['groups'] for each in report['collectives'] if each['operation'] == 'all-gather'}
    assert pairs == {'{{0,1},{2,3}}'}  # towers are neighbours
    summed = [each for each in report['collectives'] if each['is_backward']]
    summed = [each for each in summed if each['groups'] not in pairs]
    assert {each['groups'] for each in summed} == {'{{0,2},{1,3}}'}
    # One tower has half of the 60,965,224 parameters and fc8's bias; the loss and the error are
    # summed with their gradients.
    assert sum(each['size'] for each in summed) == 4 * ((60_965_224 - 1000) // 2 + 1000 + 2)


def test_replicas_that_divide_the_dense_layers_exchange_units_in_place_of_their_gradients():
    flags = '--device=h100', '--dtype=bfloat16', '--batch=128', '--mesh.tower=2', '--mesh.data=4'
    tower, divided = (step(*flags, f'--config.mesh.dense={dense}') for dense in ('tower', 'all'))
    assert counted(tower) == TOWERS_MEET | {('all-reduce', True): 3}
    # The products of fc8 are scattered, their gradients gathered. Of the gradients, all replicas
    # sum those of the convolutions and of fc8's bias.
    others = {('reduce-scatter', False): 1, ('all-gather', True): 1, ('all-reduce', True): 1}
    assert counted(divided) == TOWERS_MEET | others
    layers = {each['layer']: each for each in divided['collectives'] if not each['is_backward']}
    assert [layers[name]['size'] for name in ('fc6', 'fc7')] == [128 * 9216 * 2, 128 * 4096 * 2]
    assert layers['fc6']['groups'] == '{{0,1,2,3,4,5,6,7}}'

    def sent(report, *layers):
        return sum(each['sent'] for each in report['collectives'] if each['layer'] in layers)

    dense, convolutions = ('fc6', 'fc7', 'fc8'), sent(divided, '')
    gradients = sent(tower, '') - convolutions
    # Units of 8 times as many images are 8 times as many bytes; gradients are not.
    for images, least in ((1, 15), (8, 2.5)):
        assert gradients + images * sent(tower, *dense) >= least * images * sent(divided, *dense)
    assert divided['memory']['arguments'] < 0.4 * tower['memory']['arguments']


def test_the_scaling_model_counts_the_bytes_of_the_compiled_step():
    config = nets.full(model__dtype='bfloat16')
    exchanges = scaling_model.list_exchanges(config, scaling_model.TOWERS, 4, 1024, per_host=8)
    flags = '--device=h100', '--dtype=bfloat16', '--batch=1024', '--mesh.tower=2', '--mesh.data=2'
    sent = sum(each['sent'] for each in step(*flags)['collectives'])
    loss_and_error = 2 * 4
    assert sent == sum(sum(x.traffic()) for x in exchanges) + loss_and_error


def test_gradients_are_summed_while_the_rest_is_computed():
    """Those of fc7 during the backward pass, those of fc6 during the update of the others.

    XLA lets one collective operation be in flight; docs/scaling.md says what more would take.
    """
    flags = '--device=h100', '--dtype=bfloat16', '--batch=1024', '--mesh.tower=2', '--mesh.data=2'
    (groups,) = {x['groups'] for x in step(*flags)['collectives'] if x['layer'] == 'conv3'}
    summed = [x for x in step(*flags)['collectives'] if x['is_backward'] and x['groups'] != groups]
    meanwhile = {x['size']: x['launches_meanwhile'] for x in summed}
    fc6, fc7 = 4 * 9216 * 2048, 4 * 4096 * 2048
    assert meanwhile[fc7] > 20
    assert all(meanwhile.values())
    assert meanwhile[fc6] > 3


def test_ilsvrc_on_eight_gpus_and_the_exchange_of_a_batch():
    """All images are in the memory of eight H100; bytes cross between devices, and none the host.

    The step needs 1.1 GB more in float32 (docs/resident_data.md).
    """
    flags = '--device=h100', '--what=gather', '--mesh.tower=2', '--mesh.data=4', '--batch=1024'
    usual, any_batch = compile_for(*flags)[0].values()
    for report in (usual, any_batch):
        assert 31.4e9 < report['memory']['arguments'] < 31.6e9
        assert report['memory']['temporaries'] + report['memory']['results'] < 0.5e9
        assert report['host_transfers'] == 0
        operations = collections.Counter(each['operation'] for each in report['collectives'])
        assert operations == {'all-to-all': 2, 'all-gather': 2}  # of images, and of labels
    # Bytes of images to all eight and then within pairs, not of floats.
    sizes = sorted(each['size'] for each in usual['collectives'])[-2:]
    assert sizes == [8 * 32 * 256 * 256 * 3, 2 * 128 * 256 * 256 * 3]
    assert usual['received'] < 70e6 < 200e6 < any_batch['received']


def test_the_evaluation_compiles_without_a_pass_for_the_relu():
    report = compile_for('--device=h100', '--what=evaluation', '--batch=1024')[0]['evaluation']
    assert report['by_kind']['kernel'][0] == 4
    assert not report['collectives']
    assert report['bytes'] / 1e6 / 1024 <= 9.7


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('device', ['v5e', 'v6e'])
def test_the_kernels_compile_for_tpus(device, dtype):
    reports, _ = compile_for(f'--device={device}', '--what=kernels', f'--dtype={dtype}')
    operations = ('response_normalization', 'normalized_pooling', 'pooling')
    for operation in operations:
        for layer in ('conv1', 'conv2'):
            assert reports[f'{operation} {layer} {dtype} forward']['tpu_kernels'] == 1
            assert reports[f'{operation} {layer} {dtype} backward']['tpu_kernels'] == 2


def test_on_a_tpu_no_layer_costs_more_than_its_convolution():
    """The net is narrow, because that of the paper takes two minutes to compile."""
    report = step('--device=v5e', '--batch=64', '--dtype=bfloat16', '--config.model.width=0.125')
    assert report['tpu_kernels'] == 12  # of three layers, two towers, two directions
    for layer in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'):
        cycles, convolution = report['cycles_by_layer'][layer]
        assert cycles - convolution <= convolution, layer
