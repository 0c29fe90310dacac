"""Every program in benchmarks/ runs to its end at a small size."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import classifiers
import kernel_check
import kernel_times
import normalization_layers
import numpy as np
import onnx_net
import photographs
import picture_sets
import pytest
import roofline
from full_net import make_config
from PIL import Image

import forked
import nets
from alexnet_jax.data import images as data_images
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import parameter_count

HAS_ONNX = all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime'))
HAS_TORCH = importlib.util.find_spec('torch') is not None


# Optimizing the programs takes longer than running them at these sizes.
ENVIRONMENT = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}


def start(*arguments):
    """Runs Python with these arguments; returns its exit code, output and errors."""
    environment = {k: v for k, v in os.environ.items() if k != 'JAX_NUM_CPU_DEVICES'}
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=nets.ROOT,
        env=environment | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def program(name, *arguments):
    """Runs a program, asserts that it succeeds, and returns its output."""
    code, out, err = start(f'benchmarks/{name}', *arguments)
    assert code == 0, err
    return out


def missing_torch(out):
    """Returns the lines that say how to install PyTorch: one where it is missing."""
    return [line for line in out.splitlines() if 'pip install torch' in line]


@pytest.mark.slow
def test_resident_times_the_step_on_images_in_device_memory_beside_the_loader(tmp_path):
    file = tmp_path / 'resident.json'
    out = program(
        *('resident.py', '--width=0.03125', '--batch=2', '--images=40', '--repeats=2'),
        *('--seconds=0', f'--trace={tmp_path / "profile"}', f'--out={file}'),
    )
    results = json.loads(file.read_text())
    assert list(results['seconds']) == ['constant', 'resident', 'gather']
    assert all(len(times) == 2 and min(times) > 0 for times in results['seconds'].values())
    assert 'the profile has no GPU kernels' in out


def test_kernels_of_a_profile_are_summed_by_instruction(tmp_path, monkeypatch):
    def event(name, instruction, microseconds):
        stats = [('hlo_op', instruction)] if instruction else []
        return types.SimpleNamespace(name=name, stats=stats, duration_ns=1000 * microseconds)

    events = [event('gemm', 'dot.1', 1500)] * 4 + [
        event('gemm', 'dot.2', 250),
        event('copy', '', 50),
    ]
    lines = [
        types.SimpleNamespace(name='Stream #1(Compute)', events=events),
        types.SimpleNamespace(name='XLA Ops', events=events),  # the same, summed up
    ]
    planes = [
        types.SimpleNamespace(name=f'/{name}', lines=lines) for name in ('device:GPU:0', 'host:CPU')
    ]
    profile = types.SimpleNamespace(from_file=lambda _: types.SimpleNamespace(planes=planes))
    monkeypatch.setattr(kernel_times.jax.profiler, 'ProfileData', profile)
    (tmp_path / 'a.xplane.pb').touch()
    program = '  %dot.1 = f32[2] dot(), metadata={op_name="jit(step)/jit(shmap)/fc6/dot_general"}'
    heading, _, *rows = kernel_times.report(tmp_path, 2, program).splitlines()
    assert heading == '3.150 ms of kernels and copies in a step, 3 calls'
    assert [row.split() for row in rows] == [
        ['3.000', '95.2%', '2', 'gemm', 'dot.1', 'fc6/dot_general'],
        ['0.125', '4.0%', '0.5', 'gemm', 'dot.2'],
        ['0.025', '0.8%', '0.5', 'copy'],
    ]


@pytest.mark.slow
def test_step_times_forms_of_the_towers(tmp_path):
    file = tmp_path / 'step.json'
    out = program(
        *('step.py', '--batch=2', '--width=0.0625', '--repeats=2', '--devices=1', '--what=step'),
        *('--forms=unrolled,grouped', f'--out={file}'),
    )
    results = json.loads(file.read_text())
    names = [f'alexnet_jax 1 device{form}, float32' for form in ('', ' grouped')]
    ours = [r for r in results['results'] if r['contender'].startswith('alexnet_jax')]
    assert [(r['what'], r['contender']) for r in ours] == [('step', name) for name in names]
    assert all(len(r['seconds']) == 2 and min(r['seconds']) > 0 for r in ours)
    assert set(results['memory']) == set(names)
    assert results['width'] == 0.0625
    assert 'batch 2, 2 rounds, width 0.0625' in out
    assert all(name in out for name in names)
    assert len(missing_torch(out)) == (not HAS_TORCH)


@pytest.mark.slow
def test_step_times_two_devices_forward_and_the_gradient(tmp_path):
    file = tmp_path / 'step.json'
    out = program(
        *('step.py', '--batch=2', '--width=0.0625', '--repeats=1', '--devices=2', f'--out={file}'),
        *('--what=forward,gradient', '--dtype=bfloat16', '--torch=none', '--deterministic'),
        '--precision=highest',
    )
    results = json.loads(file.read_text())['results']
    name = 'alexnet_jax 2 devices highest, bfloat16'
    whats = ['forward', 'gradient']
    assert [(r['what'], r['contender']) for r in results] == [(what, name) for what in whats]
    assert 'forward and backward' in out
    assert '1 rounds, width 0.0625, deterministic' in out


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason='PyTorch is not installed')
@pytest.mark.parametrize('variant', ['eager', 'channels_last'])
def test_step_times_pytorch(tmp_path, variant):
    file = tmp_path / 'step.json'
    program(
        *('step.py', '--batch=2', '--width=0.0625', '--repeats=1', '--devices=1', f'--out={file}'),
        *('--what=step,gradient,forward', f'--torch={variant}'),
    )
    results = json.loads(file.read_text())
    contenders = {r['contender'] for r in results['results']}
    assert f'PyTorch {variant.replace("_", " ")}, float32' in contenders


@pytest.mark.slow
def test_predict_times_images_and_files(tmp_path):
    file = tmp_path / 'predict.json'
    out = program(
        *('predict.py', '--batch=4', '--width=0.0625', '--repeats=2', '--files=6'),
        f'--out={file}',
    )
    results = json.loads(file.read_text())['results']
    names = [f'alexnet_jax {devices}' for devices in ('1 device', '2 devices')]
    names += ['PyTorch eager'] * HAS_TORCH
    names += ['ONNX Runtime'] * HAS_ONNX
    expected = [(what, name) for what in ('images', 'files') for name in names]
    assert [(r['what'], r['contender']) for r in results] == expected
    assert all(len(r['seconds']) == 2 and min(r['seconds']) > 0 for r in results)
    assert all((r['speed'] is not None) == HAS_ONNX for r in results)
    assert 'from JPEG files' in out
    assert len(missing_torch(out)) == (not HAS_TORCH)
    assert ('pip install onnx onnxruntime' in out) == (not HAS_ONNX)


@pytest.mark.skipif(not HAS_ONNX, reason='ONNX Runtime is not installed')
def test_onnx_runtime_has_the_same_net():
    """The constants are such that the normalization counts."""
    config = nets.small(model__response_normalization__alpha=0.02)
    size, params = config.dataset.image_size, alexnet.initialize(config)
    mean = np.full((size, size, 3), 127.5, np.float32)
    images = nets.batch(config)['image']
    runtime = onnx_net.OnnxRuntime(config, params, mean, threads=1)
    expected = classifiers.make_ours(config, params, mean)(images)
    np.testing.assert_allclose(runtime.probabilities(images), expected, rtol=1e-5)


def test_files_are_classified_in_batches_that_are_filled_up():
    files = [photographs.photograph(np.random.default_rng(i)) for i in range(3)]
    config = make_config(1, 2)
    batches = []
    with ThreadPoolExecutor(2) as pool:
        classifiers.classify_files(batches.append, files, config, pool)
    first, last = batches
    assert first.shape == last.shape == (2, 256, 256, 3)
    assert first.any(axis=(1, 2, 3)).tolist() == [True, True]
    assert last.any(axis=(1, 2, 3)).tolist() == [True, False]
    square = data_images.square(files[2], 256, config.dataset.resize)
    np.testing.assert_array_equal(last[0], square)


def test_normalization_times_its_contenders(tmp_path):
    file = tmp_path / 'normalization.json'
    out = program(
        *('normalization.py', '--batch=1', '--repeats=2', '--layers=conv2', '--dtype=float32'),
        f'--out={file}',
    )
    results = json.loads(file.read_text())
    contenders = [(r['table']['function'], r['contender']) for r in results['results']]
    assert ('normalization', 'formula') in contenders
    assert ('normalization', 'automatic derivative') in contenders
    assert ('ReLU, normalization, pooling', 'formula') in contenders
    assert all(len(r['seconds']) == 2 for r in results['results'])
    assert 'conv2 with ReLU and pooling, float32, forward + backward' in out
    assert len(missing_torch(out)) == (not HAS_TORCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('function', 'dtypes'),
    [
        (normalization_layers.ALONE, ('float32', 'bfloat16')),
        (normalization_layers.POOLED, ('float32',)),  # compiling it takes several seconds
    ],
)
def test_the_check_interprets_the_kernels(monkeypatch, capsys, function, dtypes):
    monkeypatch.setattr(kernel_check, 'SHAPES', [(1, 3, 3, 2)])
    monkeypatch.setattr(kernel_check, 'DTYPES', dtypes)
    errors = kernel_check.check(function)
    assert tuple(errors) == dtypes
    assert 0 <= errors['float32'] < 1e-5
    assert f'{function}: kernels are right' in capsys.readouterr().out


def test_the_check_notices_a_wrong_kernel(monkeypatch):
    monkeypatch.setattr(kernel_check, 'SHAPES', [(1, 3, 3, 2)])
    monkeypatch.setattr(kernel_check, 'pallas', lambda rectify: lambda x: x)
    with pytest.raises(kernel_check.WrongKernelError, match='a kernel differs by'):
        kernel_check.check('normalization')


def test_mosaic_gpu_is_a_contender_where_it_can_be_used():
    names = ['Mosaic GPU', 'ReLU + Mosaic GPU']
    checked = [*normalization_layers.FUNCTIONS, normalization_layers.MOSAIC]
    alone = normalization_layers.layers(normalization_layers.ALONE, checked)
    assert [name for name in alone if name.endswith('Mosaic GPU')] == names
    assert 'Mosaic GPU' in normalization_layers.layers(normalization_layers.POOLED, checked)
    assert not normalization_layers.has_mosaic_gpu()  # on a CPU
    with pytest.raises(ValueError, match="implementation='mosaic_gpu' needs"):
        kernel_check.check(normalization_layers.MOSAIC)


def test_tuning_says_that_it_needs_a_gpu():
    code, out, err = start('benchmarks/tune_normalization.py')
    assert (code, out) == (1, '')
    assert err.strip() == 'tune_normalization.py: there is no GPU to time its kernels on'


def test_tuning_sorts_the_constants(tmp_path):
    file = tmp_path / 'tuning.json'
    few = "import sys; sys.path.insert(0, 'benchmarks'); import tune_normalization as program; "
    few += "few = {'LONGEST': [1, 8], 'BLOCK': [256], 'NUM_WARPS': [8]}; "
    few += "program.TUNED = {'forward': few, 'backward': few}; "
    few += 'program.CALLS = 1; program.app.run(program.main)'
    arguments = ['--interpret', '--batch=1', '--repeats=1', '--layers=conv2', '--dtype=float32']
    code, out, err = start('-c', few, *arguments, f'--out={file}')
    assert code == 0, err
    results = json.loads(file.read_text())
    assert results['failures'] == []
    rows = [(row['kernel'], row['LONGEST'], [*row['microseconds']]) for row in results['tuning']]
    columns = ['conv2 float32']
    assert rows == [(k, n, columns) for k in ('forward', 'backward') for n in (1, 8)]
    assert out.count('8, 256, 8 (set now)') == 2
    assert '1: conv2 float32' in out


def test_tuning_sets_the_constants_of_the_kernels_that_pool():
    """Each choice of the constants makes another program."""
    few = "import sys; sys.path.insert(0, 'benchmarks'); import tune_normalization as program; "
    few += "few = {'BLOCK': [256], 'NUM_WARPS': [8]}; "
    few += "program.TUNED['pooled_forward'] = few | {'DOWN': [1, 2]}; "
    few += "program.TUNED['pooled_backward'] = few | {'LONGEST': [4, 8]}; "
    few += 'texts = lambda lowered: {program.as_text() for program in lowered}; '
    few += "error = lambda lowered: RuntimeError(f'{len(texts(lowered))} programs'); "
    few += 'program.compile_all = lambda lowered: [error(lowered)] * len(lowered); '
    few += 'program.app.run(program.main)'
    arguments = ['--interpret', '--batch=1', '--layers=conv2', '--dtype=float32']
    code, out, err = start('-c', few, *arguments, '--kernels=pooled_forward,pooled_backward')
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith('failed')] == [
        f'failed: {constants} conv2 float32: 2 programs'
        for constants in ((256, 8, 1), (256, 8, 2), (256, 8, 4), (256, 8, 8))
    ]


@pytest.mark.slow
def test_input_times_every_form_of_the_data(tmp_path):
    file = tmp_path / 'input.txt'
    out = program(
        *('input.py', '--images=32', '--rounds=1', '--loader_batch=8', f'--output={file}'),
        *('--step', '--batch_size=2', '--width=0.0625'),
    )
    assert file.read_text() == out
    for form in ('original', '256 JPEG', '256 raw'):
        assert f'ours: batches, {form}' in out
        assert re.search(rf'ours, \d+ threads: {form}', out)
    assert 'comes from the loader' in out
    assert 'Batches of 8.' in out
    assert 'A host of 16 cores' in out
    assert 'goal: 50,000' in out
    assert len(missing_torch(out)) == (not HAS_TORCH)


@pytest.mark.slow
def test_start_times_cold_and_warm_starts(tmp_path):
    file = tmp_path / 'start.json'
    # The net of cifar10 has the fewest layers to compile. With these constants, the mean of 12,800
    # images need not be computed.
    settings = 'dataset.name=synthetic,augmentation.mean=colour,augmentation.constants=2012'
    settings += ',model.width=0.0625,optimizer.batch_size=8'
    out = program(
        *('start.py', '--config=configs/cifar10.py', '--repeats=1', f'--settings={settings}'),
        f'--out={file}',
    )
    seconds = json.loads(file.read_text())['seconds']
    assert {kind: len(each) for kind, each in seconds.items()} == {'cold': 1, 'warm': 1}
    assert 'to the first step' in out


def test_loop_times_each_part_of_a_step(tmp_path):
    file = tmp_path / 'loop.json'
    out = program('loop.py', '--steps=3', '--repeats=2', '--batch=4', f'--out={file}')
    results = json.loads(file.read_text())['results']
    assert list(results) == ['loop', 'and dispatch', 'and copy', 'and loader']
    for name, rounds in results.items():
        assert name in out
        assert [list(each) for each in rounds] == [['ms', 'main thread', 'process']] * 2
        assert min(x for each in rounds for x in each.values()) > 0


@pytest.mark.slow
def test_processes_times_the_steps_of_both(tmp_path):
    file = tmp_path / 'processes.json'
    arguments = '--width=0.0625', '--batch=4', '--steps=3', '--repeats=2'
    out = program('processes.py', *arguments, f'--out={file}')
    result = json.loads(file.read_text())
    for name in ('1 process, 2 devices', '2 processes, 1 device each'):
        assert name in out
        assert [len(times) for times in result['seconds'][name]] == [3, 3]
        assert min(min(times) for times in result['seconds'][name]) > 0


def test_start_shows_why_a_run_ended_early():
    code, _, err = start('benchmarks/start.py', '--settings=model.width=-1')
    assert code == 1
    assert 'start.py: the run ended before its first step:' in err
    assert 'model.width' in err


def test_photographs_are_tars_that_can_be_prepared(tmp_path):
    from alexnet_jax.data.preparation.layouts import imagenet_tars

    size = photographs.make_tars(tmp_path / 'tars', 32)
    assert 30_000 < size < 150_000  # about as many bytes as a photograph of this size
    assert sorted(file.name for file in (tmp_path / 'tars').iterdir()) == [
        'ILSVRC2012_img_train.tar',
        'ILSVRC2012_img_val.tar',
    ]
    assert imagenet_tars.list_ilsvrc2012(tmp_path / 'tars', lambda *_: None)
    first = photographs.photograph(np.random.default_rng(0))
    assert first == photographs.photograph(np.random.default_rng(0))


def test_the_full_net_is_that_of_the_config():
    assert make_config(2, 32).model == nets.full(optimizer__batch_size=32).model
    assert make_config(1, 8, 'bfloat16').model.dtype == 'bfloat16'
    narrow = make_config(1, 8, width=0.0625)
    assert parameter_count(narrow) < parameter_count(make_config(1, 8)) / 100


@pytest.mark.parametrize(
    ('what', 'gflop'), [('forward', 1.449), ('gradient', 4.136), ('step', 4.136)]
)
def test_the_operations_of_the_full_net(what, gflop):
    """The results in benchmarks/results/ were computed with these numbers."""
    assert roofline.operations_per_image(make_config(1, 32), what) / 1e9 == pytest.approx(
        gflop, abs=5e-4
    )


def test_the_least_time_is_that_of_operations_and_bytes():
    config = make_config(1, 32)
    operations = roofline.operations_per_image(config, 'step')
    per_image, per_step = roofline.counted_bytes(config, 'step')
    slow_arithmetic = roofline.Peaks(flops=1.0, bandwidth=float('inf'))
    slow_memory = roofline.Peaks(flops=float('inf'), bandwidth=1.0)
    assert roofline.bound(config, 'step', 32, slow_arithmetic) == 32 * operations
    assert roofline.bound(config, 'step', 32, slow_memory) == 32 * per_image + per_step
    update = 5 * 4 * parameter_count(config)
    assert per_step - roofline.counted_bytes(config, 'gradient')[1] == update


PROGRAMS = [
    *('input', 'loop', 'normalization', 'predict', 'start', 'step', 'tune_normalization'),
]


def test_help_succeeds_and_a_mistake_is_one_line():
    """As a module and as a script."""
    helps = [[f'benchmarks.{name}', '--help'] for name in PROGRAMS]
    mistakes = [[f'benchmarks/{name}.py', '--no_such_flag=1'] for name in PROGRAMS]
    wrong_value = ['benchmarks/step.py', '--forms=sideways']
    *results, (code, _, err) = forked.run([*helps, *mistakes, wrong_value], nets.ROOT)
    assert code == 2
    assert 'choose from unrolled, vmapped, grouped' in err
    for name, (code, out, err) in zip(PROGRAMS, results[: len(PROGRAMS)], strict=True):
        assert (name, code, err) == (name, 0, '')
        assert f'{name}.py:\n' in out
        assert '--' in out
    for name, (code, _, err) in zip(PROGRAMS, results[len(PROGRAMS) :], strict=True):
        assert (name, code) == (name, 2)
        assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_fine_tuning_compares_its_runs(tmp_path, trained_run, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')  # compiles five programs
    file = tmp_path / 'fine_tuning.json'
    out = program(
        *('fine_tuning.py', '--images=2', '--test_images=2', '--epochs=0.5', '--seeds=1'),
        *('--batch_size=4', '--settings=model.width=0.0625', f'--pretrained={trained_run}'),
        f'--out={file}',
    )
    errors = json.loads(file.read_text())['top1_errors']
    assert [len(each) for each in errors.values()] == [1] * 5
    assert all(0 <= error <= 1 for each in errors.values() for error in each)
    assert all(kind in out for kind in errors)


@pytest.mark.slow
def test_own_images_trains_with_both_recipes(tmp_path):
    for label, name in enumerate(('dark', 'light')):
        for number in range(20):
            file = tmp_path / 'sets' / 'fashion28' / name / f'{number}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', (28, 28), 10 * number + 100 * label).save(file)
    file = tmp_path / 'result.json'
    out = program(
        *('own_images.py', '--sets=fashion28', f'--folder={tmp_path}', f'--out={file}'),
        '--settings=optimizer.epochs=1,model.width=0.0625,optimizer.batch_size=8',
    )
    results = json.loads(file.read_text())['results']
    assert [*results] == ['fashion28, own_images', 'fashion28, digits']
    assert all(result['ended'] and 0 <= result['centre'] <= 1 for result in results.values())
    assert all(name in out for name in results)


def test_no_piece_of_a_photograph_for_validation_overlaps_one_for_training(tmp_path):
    """Every tile of the photograph has a colour of its own, so pieces show where they are from."""
    colours = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    (tmp_path / 'source').mkdir()
    tiles = Image.fromarray(colours.repeat(100, 0).repeat(100, 1))
    tiles.save(tmp_path / 'source' / 'tiles.jpg', quality=100)
    picture_sets.make_photographs(tmp_path / 'set', tmp_path / 'source')
    parts = {}
    for part in ('train', 'val'):
        files = list((tmp_path / 'set' / part / 'tiles').iterdir())
        pixels = [np.asarray(Image.open(file)) for file in files]
        assert all(int(array.max()) - int(array.min()) < 8 for array in pixels)  # within a tile
        parts[part] = {round(float(array.mean()) / 16) for array in pixels}
    assert len(parts['train']) == 12
    assert len(parts['val']) == 4
    assert not parts['train'] & parts['val']
