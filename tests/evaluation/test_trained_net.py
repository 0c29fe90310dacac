import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.data.loading import loader
from alexnet_jax.evaluation import classifier, error_rates, trained_net
from alexnet_jax.evaluation.trained_net import TrainedNet
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.validation import make_evaluate
from alexnet_jax.training.workdir import Workdir


def settings(data_dir, **overrides):
    few = {'dataset__eval_split': 'test[:21]', 'dataset__data_dir': data_dir}
    return nets.small(**few | overrides)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, data_dir):
    return runs.untrained(tmp_path_factory.mktemp('run'), settings(data_dir))


@pytest.fixture(scope='module')
def net(workdir):
    return TrainedNet(workdir)


def test_outputs_have_the_errors_of_the_evaluation_during_training(net):
    """Each image counts once, although the last batch is padded."""
    batches = loader.evaluation_batches(net.source, loader.Reading.from_config(net.config), 8)
    evaluate = make_evaluate(net.config, net.mesh)
    expected = evaluate(net.params, net._mean_HWC, batches, net.config.views, 21)
    centre, views = (error_rates.errors(log_p, net.labels()) for log_p in net.log_probabilities())
    assert centre.images == 21
    for log_p in net.log_probabilities():
        np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-5)
    assert centre.top1 == expected['top1_error']
    assert centre.top5 == expected['top5_error']
    assert centre.loss == pytest.approx(expected['loss'])
    assert views.top1 == expected['views/top1_error']
    assert views.top5 == expected['views/top5_error']


def test_large_logits_have_the_same_errors_in_training_and_evaluation(net, monkeypatch):
    """Most probabilities are below float32's smallest number, so as probabilities they tie at 0."""
    fc8 = net.params['fc8'] | {'kernel_TIK': 1e4 * net.params['fc8']['kernel_TIK']}
    monkeypatch.setattr(net, 'params', net.params | {'fc8': fc8})
    batches = loader.evaluation_batches(net.source, loader.Reading.from_config(net.config), 8)
    evaluate = make_evaluate(net.config, net.mesh)
    expected = evaluate(net.params, net._mean_HWC, batches, net.config.views, 21)
    outputs = net.log_probabilities()
    assert ((np.exp(outputs[0]) == 0).sum(axis=1) > 5).all()
    for prefix, log_p in zip(('', 'views/'), outputs, strict=True):
        actual = error_rates.errors(log_p, net.labels())
        assert actual.top1 == expected[f'{prefix}top1_error']
        assert actual.top5 == expected[f'{prefix}top5_error']
        by_rank = np.argsort(np.argsort(-log_p, axis=1), axis=1)[np.arange(21), net.labels()]
        assert actual.top5 == pytest.approx(np.mean(by_rank >= 5))
    assert error_rates.errors(outputs[0], net.labels()).loss == pytest.approx(expected['loss'])


def test_rows_are_in_the_order_of_the_images(net):
    """Row 20, of an incomplete batch, is the output for image 20 alone."""
    centre = (net.image(20) - np.asarray(net._mean_HWC))[4:68, 4:68]
    params = jax.device_get(net.params)
    logits = nets.compiled_logits(net.config, nets.mesh_of(1))(params, centre[None])
    np.testing.assert_allclose(
        net.log_probabilities()[0][20], jax.nn.log_softmax(logits)[0], rtol=1e-4, atol=1e-5
    )


def test_the_last_hidden_layer_is_the_input_of_the_output_layer(net):
    hidden = net.last_hidden()
    assert hidden.shape == (21, 2 * 256)
    last = jax.device_get(net.params['fc8'])
    kernel = np.concatenate([*last['kernel_TIK']])
    log_p = jax.nn.log_softmax(hidden @ kernel + last['bias'])
    np.testing.assert_allclose(net.log_probabilities()[0], log_p, rtol=1e-4, atol=1e-5)


def test_names_and_labels_are_those_of_the_records(net):
    images = trained_net.read_labels(net.source)
    assert images.classes == [str(digit) for digit in range(10)]
    assert images.names[20].startswith('record 20 of digits-test.array_record')
    assert images.labels.tolist() == [net.source[i]['label'] for i in range(21)]
    assert len(set(images.labels.tolist())) > 5


def test_the_newest_checkpoint_is_placed_on_the_devices_of_this_machine(tmp_path, data_dir, net):
    """The mesh is not that of the training; the outputs are the same."""
    config = settings(data_dir, mesh__tower=1)
    runs.untrained(tmp_path, config, step=5)
    runs.untrained(tmp_path, config, step=7)
    other = TrainedNet(tmp_path)
    assert other.step == 7 == Workdir(tmp_path).checkpoint_step()
    assert other.mesh.shape['tower'] == 2
    one = TrainedNet(tmp_path, nets.mesh_of(1))
    assert one.mesh.shape['tower'] == 1
    for a, b, c in zip(
        net.log_probabilities(), other.log_probabilities(), one.log_probabilities(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)


def test_replicas_need_not_divide_the_batch_size(tmp_path, data_dir, net):
    """Batches of 7 images are filled up to 8, and the 21 images have the same outputs."""
    config = settings(data_dir, evaluation__batch_size=7)
    runs.untrained(tmp_path, config)
    mesh = nets.mesh_of(1, data=2)
    for a, b in zip(
        TrainedNet(tmp_path, mesh).log_probabilities(), net.log_probabilities(), strict=True
    ):
        assert len(a) == 21
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('gpus', 'shape'), [(1, (1, 1)), (4, (2, 2)), (6, (3, 2)), (7, (3, 2))])
def test_all_accelerators_hold_replicas(monkeypatch, gpus, shape):
    """Also a number of them that does not divide the batch sizes, here 128."""
    devices = [types.SimpleNamespace(platform='gpu', device_kind='GPU') for _ in range(gpus)]
    monkeypatch.setattr(cpu_devices, 'devices', lambda: devices)
    monkeypatch.setattr(jax.sharding, 'Mesh', lambda grid, *_, **__: grid)
    assert trained_net.mesh_of_this_machine(nets.full()).shape == shape


class FakeCheckpoints:
    """Records which checkpoint is restored; its net has the step as the bias of fc8."""

    best: int | None = 4

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def restore(self, shapes, step=None):
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        zeros.params['fc8']['bias'] = np.full(10, -1 if step is None else step, np.float32)
        return zeros, Position(step=9 if step is None else step)


def test_a_checkpoint_is_the_newest_the_best_or_one_by_its_step(workdir, monkeypatch):
    monkeypatch.setattr(Workdir, 'open_checkpoints', lambda self, keep=None: FakeCheckpoints())
    assert TrainedNet(workdir).step == 9
    assert TrainedNet(workdir, checkpoint='best').step == 4
    assert TrainedNet(workdir, checkpoint=3).step == 3
    assert TrainedNet(workdir, checkpoint=np.int64(3)).step == 3
    for other in ('3', 'latest', 3.0, None):
        with pytest.raises(ValueError, match=r'is neither .newest. nor .best. nor a number of'):
            classifier.load(workdir, checkpoint=other)
    net = classifier.load(workdir, checkpoint='best')
    np.testing.assert_array_equal(net.params['fc8']['bias'], np.full(10, 4))
    monkeypatch.setattr(FakeCheckpoints, 'best', None)
    with pytest.raises(UserError, match='has no best checkpoint: use --checkpoint=newest'):
        TrainedNet(workdir, checkpoint='best')


def test_the_data_set_is_where_the_run_recorded_it(workdir, data_dir, tmp_path, monkeypatch):
    """A run without a data_dir, after TFDS_DATA_DIR has changed, does not prepare it once more."""
    shutil.copytree(workdir, tmp_path / 'run')
    record = json.loads((tmp_path / 'run' / 'config.json').read_text())
    record['config']['dataset']['data_dir'] = ''
    folder = next(Path(data_dir).glob('digits/*'))
    images = {'images': 1, 'fingerprint': ''}
    record['data'] = {'folder': str(folder), 'train': images, 'eval': images}
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(record))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'other'))
    assert trained_net.read_config(tmp_path / 'run').dataset.data_dir == data_dir
    assert len(TrainedNet(tmp_path / 'run').source) == 21
    assert not (tmp_path / 'other').exists()
    monkeypatch.setenv('TFDS_DATA_DIR', data_dir)
    assert trained_net.read_config(tmp_path / 'run').dataset.data_dir == ''


def test_classes_in_another_order_are_refused(tmp_path, workdir, data_dir):
    """The error rate would be that of chance, and nothing else would look wrong."""
    shutil.copytree(workdir, tmp_path / 'run')
    inputs = TrainedNet(workdir).inputs
    names = ('1', '0', *inputs.classes[2:])
    Workdir(tmp_path / 'run').write_inputs(dataclasses.replace(inputs, classes=names))
    with pytest.raises(UserError, match=r'other classes than .*class 0 is 1 in the run and 0 here'):
        TrainedNet(tmp_path / 'run')


def test_the_mean_image_is_that_of_the_training(tmp_path, workdir, data_dir):
    """It is kept in the workdir; statistics of the data set that change later do not matter."""
    shutil.copytree(workdir, tmp_path / 'run')
    inputs = dataclasses.replace(TrainedNet(workdir).inputs, mean_HWC=np.full((72, 72, 3), 7, 'f4'))
    Workdir(tmp_path / 'run').write_inputs(inputs)
    np.testing.assert_array_equal(TrainedNet(tmp_path / 'run')._mean_HWC, inputs.mean_HWC)


def test_images_may_be_others_than_in_training(workdir, data_dir):
    other = TrainedNet(workdir, config=settings(data_dir, dataset__eval_split='train[:9]'))
    assert len(other.labels()) == 9
    assert 'train' in other.source.where(0)


def test_a_damaged_test_image_is_named(tmp_path, data_dir, workdir):
    shutil.copytree(data_dir, tmp_path / 'data')
    where = runs.spoil(tmp_path / 'data', 'test', 4)
    net = TrainedNet(workdir, config=settings(str(tmp_path / 'data')))
    for read in (net.labels, net.log_probabilities, lambda: net.image(4)):
        with pytest.raises(UserError, match=f'{where} is damaged .*: prepare the data set again'):
            read()


def test_a_folder_without_a_trained_net_is_one_line(tmp_path, workdir):
    with pytest.raises(UserError, match='is not the workdir of a run: there is no'):
        TrainedNet(tmp_path / 'nowhere')
    (tmp_path / 'config.json').write_text((workdir / 'config.json').read_text())
    with pytest.raises(UserError, match='has no checkpoint yet'):
        TrainedNet(tmp_path)
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(UserError, match='has no checkpoint yet'):
        TrainedNet(tmp_path)
    for text in ('{"config": ', '[]', '{"config": 3}', '{"starts": []}'):
        (tmp_path / 'config.json').write_text(text)
        with pytest.raises(UserError, match=r'config\.json is damaged'):
            TrainedNet(tmp_path)
    raw = json.loads((workdir / 'config.json').read_text())
    raw['config']['model']['squeeze_and_excitation'] = True
    (tmp_path / 'config.json').write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r'does not have: model\.squeeze_and_excitation: use'):
        TrainedNet(tmp_path)
