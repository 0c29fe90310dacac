"""Nets as safetensors files: exact copies in both layouts, and refusals of what is no such file."""

import dataclasses
import json
import stat
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import nets
import portable_nets
from alexnet_jax.interchange import grouped_layout, safetensors_files
from alexnet_jax.interchange.safetensors_files import OURS, TORCH
from alexnet_jax.runtime.user_errors import UserError


@pytest.fixture
def net():
    return portable_nets.random_net(nets.small(**portable_nets.FEW))


def assert_same_net(actual, expected):
    nets.assert_equal_leaves(actual.params, expected.params)
    nets.assert_equal_leaves(actual.inputs.mean_HWC, expected.inputs.mean_HWC)
    nets.assert_equal_leaves(vars(actual.inputs.colours), vars(expected.inputs.colours))
    for name in ('classes', 'descriptions'):
        assert getattr(actual.inputs, name) == getattr(expected.inputs, name)
    assert (actual.step, actual.config) == (expected.step, expected.config)


@pytest.mark.parametrize('name', portable_nets.CONFIGS)
@pytest.mark.parametrize('layout', [OURS, TORCH])
def test_a_net_is_read_as_it_was_written(name, layout, tmp_path):
    net = portable_nets.random_net(portable_nets.CONFIGS[name]())
    safetensors_files.write(net, tmp_path / 'net', layout)
    assert_same_net(safetensors_files.read(tmp_path / 'net'), net)


def test_weights_that_are_not_shared_leave_in_our_layout_alone(tmp_path):
    config = nets.small(**portable_nets.FEW, model__conv4__shared=False)
    net = portable_nets.random_net(config)
    safetensors_files.write(net, tmp_path / 'net')
    assert_same_net(safetensors_files.read(tmp_path / 'net'), net)
    with pytest.raises(UserError, match='conv4 has separate weights for each place'):
        safetensors_files.write(net, tmp_path / 'other', TORCH)
    assert not (tmp_path / 'other').exists()


def test_names_of_classes_may_be_any_text(tmp_path, net):
    """Folders have names in all scripts, and with bytes that are not UTF-8."""
    classes = ('größe', '"', '\\', '\n', '\udcff', '猫', '', ' ', 'a,b', '9')
    inputs = dataclasses.replace(net.inputs, classes=classes)
    net = dataclasses.replace(net, inputs=inputs)
    for layout in (OURS, TORCH):
        safetensors_files.write(net, tmp_path / 'net', layout)
        assert safetensors_files.read(tmp_path / 'net').inputs.classes == classes


def test_arrays_have_the_names_that_are_documented(tmp_path, net):
    safetensors_files.write(net, tmp_path / 'ours')
    safetensors_files.write(net, tmp_path / 'torch', TORCH)
    ours, torch = (safetensors.numpy.load_file(tmp_path / name) for name in ('ours', 'torch'))
    kernel = net.params['conv1']['kernel_THWIO']
    np.testing.assert_array_equal(ours['params.conv1.kernel_THWIO'], kernel)
    np.testing.assert_array_equal(ours['inputs.mean_HWC'], net.inputs.mean_HWC)
    assert ours['inputs.colours.eigenvectors'].dtype == np.float64
    assert torch.keys() == grouped_layout.shapes(net.config).keys() | {'mean', 'deviations'}
    np.testing.assert_array_equal(torch['mean'], net.inputs.mean_HWC.transpose(2, 0, 1))


def test_paths_of_this_machine_do_not_leave(tmp_path):
    config = nets.small(
        **portable_nets.FEW,
        dataset__folder='/home/someone/flowers',
        dataset__data_dir='/home/someone/tfds',
        pretrained__workdir='/home/someone/runs',
    )
    net = portable_nets.random_net(config)
    safetensors_files.write(net, tmp_path / 'net')
    assert b'someone' not in (tmp_path / 'net').read_bytes()
    dataset = safetensors_files.read(tmp_path / 'net').config.dataset
    assert (dataset.folder, dataset.data_dir) == ('flowers', '')


def test_the_file_may_be_read_by_others_as_the_umask_says(tmp_path, net):
    (tmp_path / 'plain').touch()
    safetensors_files.write(net, tmp_path / 'net')
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('plain', 'net')]
    assert modes[0] == modes[1]


def parts(file):
    """The header of a file, and its arrays as bytes."""
    content = file.read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewrite(file, header, data):
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack('<Q', len(text)) + text + data)


def set_metadata(**values):
    def change(header):
        header['__metadata__'].update(values)

    return change


def set_settings(change_settings):
    def change(header):
        settings = json.loads(header['__metadata__']['config'])
        change_settings(settings)
        header['__metadata__']['config'] = json.dumps(settings)

    return change


def huge(settings):
    """As large as the settings allow: some 10^14 parameters."""
    settings['model']['width'] = 64.0
    for name in ('fc6', 'fc7'):
        settings['model'][name]['units'] = 2**20


def swap_shape(header):
    header['params.fc7.kernel_TIO']['shape'].reverse()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda header: header.pop('__metadata__'), 'no settings in its metadata'),
        (set_metadata(format='pt'), 'no settings in its metadata'),
        (set_metadata(version='2'), 'is of version 2, and this alexnet_jax reads version 1'),
        (set_metadata(config='{'), "'config' in its metadata is damaged"),
        (set_metadata(config='[]'), "'config' in its metadata is not a JSON dict"),
        (set_metadata(config='{}'), 'settings are damaged: it lacks the setting seed'),
        (set_metadata(config='{"a":' * 900 + '1' + '}' * 900), 'settings are damaged'),
        (set_metadata(config='[' * 10**5), "'config' in its metadata is damaged"),
        (set_metadata(classes='["a"]'), 'classes'),
        (set_metadata(classes=json.dumps([[]] * 10)), 'the name of a class is not a text'),
        (set_metadata(step='-1'), "'step' in its metadata is not a number of training steps"),
        (set_settings(lambda x: x.update(seed='x')), 'seed must be of type int'),
        (set_settings(lambda x: x['model'].update(towers=1)), 'its settings need F32'),
        (set_settings(huge), r'its settings need [0-9,]+ bytes, and it has [0-9,]+'),
        (swap_shape, r'params\.fc7\.kernel_TIO is F32 \(128, 256, 2\), and its settings need'),
        (lambda x: x['params.fc8.bias'].update(dtype='I32'), r'params\.fc8\.bias is I32 \(10,\)'),
        (lambda x: x.update(other=x.pop('params.fc8.bias')), r'lacks params\.fc8\.bias'),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(change, message, tmp_path, net):
    file = tmp_path / 'net'
    safetensors_files.write(net, file)
    header, data = parts(file)
    change(header)
    rewrite(file, header, data)
    with pytest.raises(UserError, match=message) as error:
        safetensors_files.read(file)
    assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'cannot read .*absent: No such file'):
        safetensors_files.read(tmp_path / 'absent')
    with pytest.raises(UserError, match='is not a file'):
        safetensors_files.read(tmp_path)
    (tmp_path / 'empty').touch()
    with pytest.raises(UserError, match='empty is damaged, or is not a safetensors file'):
        safetensors_files.read(tmp_path / 'empty')


@pytest.mark.parametrize('layout', [OURS, TORCH])
def test_damaged_files_are_refused_in_one_line(layout, tmp_path, net):
    """A file is cut, or bytes of its header change; what is accepted has the settings' arrays."""
    file, damaged = tmp_path / 'net', tmp_path / 'damaged'
    safetensors_files.write(net, file, layout)
    content, rng = file.read_bytes(), np.random.default_rng(0)
    (length,) = struct.unpack('<Q', content[:8])
    messages = []
    for number in range(100):
        if number < 30:
            copy = content[: rng.integers(len(content))]
        else:
            copy = bytearray(content)
            for _ in range(rng.integers(1, 4)):
                copy[rng.integers(8 + length)] = rng.integers(256)
        damaged.write_bytes(copy)
        try:
            safetensors_files.read(damaged)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) >= 80
    assert not any('\n' in message for message in messages)
