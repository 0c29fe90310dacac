import dataclasses

import jax
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.evaluation import classifier
from alexnet_jax.interchange import portable_net
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


@pytest.fixture(scope='module')
def net(trained_run):
    return portable_net.read_run(trained_run)


def test_a_run_that_is_written_has_the_same_bits(net, trained_run, tmp_path):
    portable_net.write_run(net, tmp_path / 'copy', {'file': 'a.safetensors'})
    copy = portable_net.read_run(tmp_path / 'copy')
    nets.assert_equal_leaves(copy.params, net.params)
    np.testing.assert_array_equal(copy.inputs.mean_HWC, net.inputs.mean_HWC)
    assert copy.inputs.classes == net.inputs.classes
    assert (copy.step, net.step) == (0, 23)
    record = Workdir(tmp_path / 'copy').read_record()
    assert record['imported'] == {'file': 'a.safetensors'}
    images = np.random.default_rng(0).integers(256, size=(3, 72, 72, 3), dtype=np.uint8)
    expected = classifier.load(trained_run).log_probabilities(images)
    np.testing.assert_array_equal(
        classifier.load(tmp_path / 'copy').log_probabilities(images), expected
    )


def test_a_run_that_is_written_can_be_trained(net, trained_run, tmp_path, data_dir):
    """Training begins at step 0 with these weights."""
    short = dataclasses.replace(net.config.optimizer, epochs=0.5)
    config = dataclasses.replace(net.config, optimizer=short)
    portable_net.write_run(dataclasses.replace(net, config=config), tmp_path, {})
    code, out, err = runs.run(runs.command(tmp_path, data_dir, optimizer__epochs=0.5))
    assert (code, err) == (0, '')
    assert f'training begins with the imported weights in {tmp_path}' in out
    losses = [Workdir(x).read_metrics()[0]['train/loss'] for x in (trained_run, tmp_path)]
    assert losses[1] < losses[0] - 0.1  # in nats; both are means over the first four steps


def test_a_folder_with_a_run_is_not_overwritten(net, tmp_path):
    portable_net.write_run(net, tmp_path, {})
    with pytest.raises(UserError, match='holds a run already: choose another --workdir'):
        portable_net.write_run(net, tmp_path, {})


@pytest.mark.parametrize('last', ['_record_start', 'write_inputs'])
def test_an_interrupted_import_can_be_repeated(net, tmp_path, monkeypatch, last):
    """It never passes for a run whose training begins with random weights."""
    folder, config = Workdir(tmp_path), net.config
    step = getattr(Workdir, last)

    def interrupted(*arguments):
        step(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Workdir, last, interrupted)
    with pytest.raises(KeyboardInterrupt):
        portable_net.write_run(net, tmp_path, {'file': 'first'})
    monkeypatch.setattr(Workdir, last, step)
    assert folder.lacks_imported_weights()
    for use in (lambda: folder.check(config), folder.checkpoint_step):
        with pytest.raises(UserError, match='no checkpoint yet: wait for the import of its weigh'):
            use()
    other = dataclasses.replace(config, seed=config.seed + 1)
    portable_net.write_run(dataclasses.replace(net, config=other), tmp_path, {'file': 'second'})
    assert not folder.lacks_imported_weights()
    nets.assert_equal_leaves(portable_net.read_run(tmp_path).params, net.params)
    assert folder.read_record()['imported'] == {'file': 'second'}
    assert folder.read_config().seed == config.seed + 1


def test_the_mean_image_of_imported_weights_is_never_that_of_other_images(net, tmp_path):
    portable_net.write_run(net, tmp_path, {})
    (tmp_path / 'inputs.npz').unlink()
    with pytest.raises(UserError, match=r'inputs\.npz is missing: import the weights again, with'):
        Workdir(tmp_path).read_inputs()


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros(9, np.float32), r'fc8.bias has the shape \(9,\), not \(10,\)'),
        (np.zeros(10), 'fc8.bias is of type float64, not float32'),
        (np.full(10, np.inf, np.float32), 'fc8.bias has values that are not finite'),
    ],
)
def test_parameters_of_another_net_are_refused(net, array, message):
    params = net.params | {'fc8': net.params['fc8'] | {'bias': array}}
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(net, params=params)


def test_the_parameters_are_on_the_host(net):
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(net.params))
