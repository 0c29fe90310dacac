"""The model of benchmarks/scaling.py, against numbers counted by hand and compiled programs."""

import json
import math
import re

import pytest
import scaling_model as model
from roofline import Peaks

import forked
import nets
from alexnet_jax.model.layer_table import parameter_count


@pytest.mark.parametrize(
    ('operation', 'devices', 'hosts', 'traffic'),
    [
        ('all-gather', 4, 1, (0.75, 0)),
        ('reduce-scatter', 2, 1, (0.5, 0)),
        ('all-reduce', 4, 1, (1.5, 0)),
        ('all-gather', 16, 2, (7 / 8, 1 / 16)),  # each GPU receives half of an eighth
        ('all-reduce', 32, 4, (14 / 8, 3 / 16)),
        ('all-reduce', 4, 4, (0, 1.5)),
    ],
)
def test_the_bytes_that_a_device_sends(operation, devices, hosts, traffic):
    exchange = model.Exchange('', operation, 1.0, devices, hosts)
    assert exchange.traffic() == pytest.approx(traffic)
    times = 2 if operation == 'all-reduce' else 1
    assert sum(exchange.traffic()) == pytest.approx(times * (devices - 1) / devices)


def numbers(config, scheme, gpus, batch):
    """Returns the bytes of the exchanges by layer and operation."""
    exchanges = model.list_exchanges(config, scheme, gpus, batch, per_host=8)
    return {(x.layer, x.operation): x.size for x in exchanges}


def test_two_towers_exchange_what_the_paper_shows():
    """conv3 reads 13 x 13 pixels of all maps, fc6 6 x 6, and fc7 all units."""
    config = nets.full(model__dtype='bfloat16')
    gathered = {'conv3': 2 * 13**2 * 256, 'fc6': 2 * 6**2 * 256, 'fc7': 2 * 4096}
    operations = ('all-gather', 'reduce-scatter')
    expected = {(layer, x): 128 * size for layer, size in gathered.items() for x in operations}
    expected['fc8', 'all-reduce'] = 128 * 4 * 1000
    assert numbers(config, model.TOWERS, 2, 128) == expected
    with_replicas = numbers(config, model.TOWERS, 8, 512)  # four pairs
    gradients = [with_replicas.pop((x, 'all-reduce')) for x in ('convolutional', 'dense')]
    assert with_replicas == expected
    assert sum(gradients) == 4 * ((60_965_224 - 1000) // 2 + 1000)


def test_the_weird_trick_exchanges_activations_in_place_of_dense_gradients():
    config = nets.full(model__dtype='bfloat16')
    expected = {('fc6', x): 2 * 1024 * 9216 for x in ('all-gather', 'reduce-scatter')}
    expected |= {('fc7', x): 2 * 1024 * 4096 for x in ('all-gather', 'reduce-scatter')}
    expected |= {('fc8', x): 4 * 1024 * 1000 for x in ('all-gather', 'reduce-scatter')}
    convolutional = 34_944 + 307_456 + 885_120 + 663_936 + 442_624
    expected['convolutional', 'all-reduce'] = 4 * convolutional
    expected['dense', 'all-reduce'] = 4 * 1000  # the bias of fc8
    assert numbers(config, model.TRICK, 8, 1024) == expected


@pytest.mark.parametrize('gpus', [4, 64])
def test_at_the_break_even_batch_both_forms_exchange_the_same(gpus):
    config = nets.full()
    batch = model.break_even(config, gpus, tower=1, per_host=8)
    rounded = gpus * round(batch / gpus)
    traffic = [
        sum(sum(x.traffic()) for x in model.list_exchanges(config, scheme, gpus, rounded, 8))
        for scheme in (model.REPLICAS, model.TRICK)
    ]
    assert traffic[0] == pytest.approx(traffic[1], rel=gpus / batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('tower', 'data', 'dense'), [(2, 1, 'tower'), (1, 2, 'tower'), (1, 2, 'all')]
)
def test_the_bytes_are_those_of_a_compiled_step(tower, data, dense):
    """On two devices, each sends all of what it sums, and half of what is gathered."""
    config = nets.small(mesh__tower=tower, mesh__data=data, mesh__dense=dense)
    text = nets.compiled_step(config, nets.mesh_of(tower, data)).as_text()
    of_result = {'all-reduce': 1, 'all-gather': 0.5, 'reduce-scatter': 1}  # the result is a part
    sent = 0
    for result, operation in re.findall(rf'= (\(.*?\)|\S+) ({"|".join(of_result)})\(', text):
        for sizes in re.findall(r'\bf32\[([\d,]*)\]', result):
            sent += of_result[operation] * 4 * math.prod(int(n) for n in sizes.split(',') if n)
    if data > 1:
        sent -= 2 * 4  # the loss and the error
    scheme = model.Scheme('', tower, dense == 'all')
    exchanges = model.list_exchanges(config, scheme, tower * data, 8, per_host=8)
    assert sent == sum(sum(x.traffic()) for x in exchanges)


MACHINE = model.Machine(8, 100e9, 10e9, 0.0, 0.0, 0.0, Peaks(1e15, 1e12))


def make_model(hidden=0.0):
    """Makes a model whose GPU takes 1 ms for no images, and 0.1 ms for each image."""
    machine = model.Machine(**vars(MACHINE) | {'hidden': hidden})
    lines = dict.fromkeys((1, 2), model.Line(0.0, 1e6))
    return model.Model(nets.full(), machine, model.Line(1e-3, 1e-4), lines)


def test_one_gpu_is_as_fast_as_measured():
    estimate = make_model().estimate(model.REPLICAS, 1, 100)
    assert estimate.step == pytest.approx(11e-3)
    assert estimate.rate == pytest.approx(100 / 11e-3)
    assert (estimate.within, estimate.between, estimate.exposed) == (0, 0, 0)
    state = 8 * 60_965_224 + 100 * (1e6 + 256**2 * 3)
    assert estimate.memory == pytest.approx(state)


def test_replicas_add_the_time_of_their_gradients():
    """Two of them send each gradient once; over two hosts, by the card of each GPU."""
    size = 4 * parameter_count(nets.full())
    estimate = make_model().estimate(model.REPLICAS, 2, 200)
    assert estimate.within == size
    assert estimate.step == pytest.approx(11e-3 + size / 100e9)
    over_hosts = make_model().estimate(model.REPLICAS, 16, 1600)
    assert over_hosts.step == pytest.approx(11e-3 + 14 / 8 * size / 100e9 + size / 8 / 10e9)


def test_the_gradients_hide_behind_the_backward_pass_alone():
    """It is two thirds of the operations or less: the gradient of the image is not computed."""
    alone = make_model().estimate(model.REPLICAS, 8, 800)
    half, all_ = (make_model(x).estimate(model.REPLICAS, 8, 800) for x in (0.5, 1.0))
    assert half.exposed == pytest.approx(alone.exposed / 2)
    assert all_.exposed == pytest.approx(0, abs=1e-9)
    small = make_model(1.0).estimate(model.REPLICAS, 8, 8)
    assert small.exposed == pytest.approx(alone.exposed - 1e-4 * 0.65, rel=0.01)
    activations = make_model(1.0).estimate(model.TRICK, 8, 800)
    assert activations.exposed > 0


def test_replicas_that_divide_the_update_save_its_passes():
    """Gradient, velocity and weights are read, and two of them written, by one replica each."""
    saving = make_model().sharded_update(model.REPLICAS, 4)
    assert saving.memory == 4 * 60_965_224 * 3 / 4
    assert saving.seconds == pytest.approx(5 * saving.memory / 1e12)
    convolutional = 34_944 + 307_456 + 885_120 + 663_936 + 442_624
    assert make_model().sharded_update(model.TRICK, 8).memory == 4 * convolutional * 7 / 8


def test_a_line_through_two_points_and_through_one():
    assert model.fit({100: 3.0, 300: 4.0}) == pytest.approx((2.5, 0.005))
    assert model.fit({100: 5.0}, constant=3.0) == (3.0, 0.02)
    with pytest.raises(ValueError, match='constant'):
        model.fit({100: 5.0})


@pytest.mark.slow
def test_the_program_writes_its_tables(tmp_path):
    files = [tmp_path / name for name in ('t.txt', 't.json', 't.svg')]
    flags = [f'--{x}={file}' for x, file in zip(('output', 'out', 'plot'), files, strict=True)]
    command = ['benchmarks/scaling.py', '--gpus=1,2,3,8', '--batches=1024,65536', *flags]
    refused = ['benchmarks/scaling.py', f'--plans={tmp_path}']
    (code, out, err), (refusal, _, problem) = forked.run([command, refused], nets.ROOT)
    assert code == 0, err
    text, results, svg = (file.read_text() for file in files)
    assert text.split('\n', 2)[2] in out
    assert all(word in text for word in ('counted', 'modelled', 'measured', '1,024 Tesla P40'))
    estimates = json.loads(results)['estimates']
    rows = {(x['scheme'], x['gpus'], x['batch']) for x in estimates}
    assert ('towers', 8, 1024) in rows
    assert not {(gpus, batch) for _, gpus, batch in rows if gpus == 3}  # it divides no batch
    one = next(x for x in estimates if (x['gpus'], x['batch']) == (1, 1024))
    assert one['rate'] == pytest.approx(1024 / 14.365e-3)
    assert svg.startswith('<svg ')
    assert refusal == 1
    assert problem.startswith('scaling.py: ')
    assert 'compile_for.py' in problem
