"""Evaluates trained nets on the same images, one by one and as an ensemble (§4.1, §6)."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.config.schema import Config
from alexnet_jax.data import synthetic
from alexnet_jax.evaluation import ensemble, error_rates, prediction_files
from alexnet_jax.evaluation.trained_net import (
    NEWEST,
    Checkpoint,
    LabelledImages,
    TrainedNet,
    open_splits,
    read_config,
    read_labels,
)
from alexnet_jax.runtime import atomic_files, compilation_cache, cpu_devices
from alexnet_jax.runtime.paths import check_writable
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.start_record import describe_start
from alexnet_jax.training.workdir import Workdir


class NetOutputs(NamedTuple):
    """The log probabilities that a net gives for the test images.

    Attributes:
      name: the net's workdir.
      step: training steps done.
      views: the number of test views.
      centre_NK: (N, K) float32, the logarithm of the softmax for the centre crop.
      views_NK: (N, K) float32, that of the mean of the softmax over all views.
    """

    name: str
    step: int
    views: int
    centre_NK: np.ndarray
    views_NK: np.ndarray


class Result(NamedTuple):
    """A line of the table.

    Attributes:
      net: the net's workdir, or how several nets are combined.
      step: training steps done; None for several nets.
      views: the views of an image that are averaged.
      errors: the error rates.
    """

    net: str
    step: int | None
    views: str
    errors: error_rates.Errors


def default_folder(workdirs: Sequence[Path]) -> Path:
    """Returns the folder for the files of an evaluation where the user names none."""
    return workdirs[0] / ('evaluation' if len(workdirs) == 1 else f'evaluation_of_{len(workdirs)}')


def evaluate_runs(
    workdirs: Sequence[Path],
    changes: Mapping[str, Any],
    out: Path,
    tune: bool,
    checkpoint: Checkpoint = NEWEST,
) -> None:
    """Evaluates the nets of some runs, prints tables, and writes files.

    Args:
      workdirs: the folders of the runs.
      changes: changes of the settings `dataset`: other test images, or the place they moved to.
      out: the folder for the files; it is created.
      tune: whether to tune weights for the mean of the nets.
      checkpoint: of each run: 'newest'; 'best', the one with the lowest test error; or its training
        steps.

    Raises:
      UserError: a folder has no trained net, two nets have different test images, an image cannot
        be read, or `out` cannot be written.
    """
    configs = [read_changed_config(workdir, changes) for workdir in workdirs]
    cpu_devices.prepare_cpu_devices()  # before JAX starts, which opening checkpoints causes
    cpu_devices.devices()  # their lack would be told as that of the checkpoints
    compilation_cache.enable()
    _check_runs(workdirs, configs)
    images = _common_images(workdirs, configs)
    if len(images.labels) < 1 + tune:
        raise UserError(f'{configs[0].dataset.eval_split} has too few images: choose a --split')
    check_writable(out, '--out')
    out.mkdir(parents=True, exist_ok=True)
    nets, environment = _compute_outputs(workdirs, configs, checkpoint)
    results = compute_results(nets, images.labels)
    if configs[0].dataset.name == 'synthetic':
        print(synthetic.NOTICE)
    print('\n'.join(['', table(results, configs[0].dataset.classes), *nan_notes(results)]))
    summary, arrays = _summary(configs[0], nets, results), {}
    if tune:
        summary['tuned'], arrays = _tune(nets, images.labels)
    print('\nWilson intervals: differences within them may be due to the choice of the images.')
    mean_NK = ensemble.mean([net.views_NK for net in nets])
    files = prediction_files.write(out, images, mean_NK, arrays)
    files.append(out / 'summary.json')
    with atomic_files.replace(files[-1]) as partial:
        partial.write_text(json.dumps(summary | {'environment': environment}, indent=2) + '\n')
    print(f'written to {out}: {", ".join(path.name for path in files)}')


def _compute_outputs(
    workdirs: Sequence[Path], configs: Sequence[Config], checkpoint: Checkpoint
) -> tuple[list[NetOutputs], dict[str, Any]]:
    """Evaluates one net after the other; returns their outputs, and the time and the devices."""
    nets, environment = [], {}
    for number, (workdir, config) in enumerate(zip(workdirs, configs, strict=True), 1):
        print(f'evaluating {workdir} ({number} of {len(workdirs)})', flush=True)
        net = TrainedNet(workdir, config=config, checkpoint=checkpoint)
        nets.append(NetOutputs(str(workdir), net.step, config.views, *net.log_probabilities()))
        environment = describe_start(net.config, net.mesh)
    return nets, environment


def compute_results(nets: Sequence[NetOutputs], labels_N: np.ndarray) -> list[Result]:
    """Computes the errors of each net, and those of the mean if there are several nets."""
    results = []
    for net in nets:
        outputs = {'centre crop': net.centre_NK}
        if net.views > 1:
            outputs[f'mean of {net.views} views'] = net.views_NK
        results += _results(net.name, net.step, outputs, labels_N)
    if len(nets) > 1:
        outputs = {'centre crop': ensemble.mean([net.centre_NK for net in nets])}
        if any(net.views > 1 for net in nets):
            outputs['all views'] = ensemble.mean([net.views_NK for net in nets])
        results += _results(f'mean of {len(nets)} nets', None, outputs, labels_N)
    return results


def _results(
    net: str, step: int | None, outputs: Mapping[str, np.ndarray], labels_N: np.ndarray
) -> list[Result]:
    return [
        Result(net, step, views, error_rates.errors(log_p_NK, labels_N))
        for views, log_p_NK in outputs.items()
    ]


def table(results: Sequence[Result], classes: int) -> str:
    """Formats results as a text table, errors and their intervals in percent.

    Top-5 errors are left out where there are not more than five classes: they are always 0.
    """
    images = results[0].errors.images
    names = [f'top-{n}' for n in error_rates.TOP if n < classes]
    header = [x for name in names for x in (name, '95 % interval')]
    rows: list[Sequence[str]] = [(f'{images:,} images', 'step', *header)]
    for net, step, views, errors in results:
        shown = (errors.top1, errors.top5)[: len(names)]
        cells = [x for error in shown for x in _percent(error, images)]
        rows.append((f'{net}, {views}', '' if step is None else str(step), *cells))
    return align_columns(rows)


def nan_notes(results: Sequence[Result]) -> list[str]:
    """Returns a line for each net and set of views with outputs that are NaN."""
    return [
        f'{net}, {views}: outputs for some images are not numbers (NaN), which count as wrong'
        for net, _, views, errors in results
        if math.isnan(errors.loss)
    ]


def _percent(error: float, images: int) -> tuple[str, str]:
    low, high = error_rates.interval(error, images)
    return f'{error:.2%}', f'{low:.2%} to {high:.2%}'


def _tune(
    nets: Sequence[NetOutputs], labels_N: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tunes weights on one half of the images, and prints the errors on the other half.

    Returns:
      The entry of summary.json, and the arrays of probabilities.npz.
    """
    tuning, others = ensemble.halves(labels_N)
    log_p_MNK = [net.views_NK for net in nets]
    print(
        f'\nweights tuned on {len(tuning):,} images, every second one of each class; errors on '
        'the other images, which were not used for tuning:',
        flush=True,
    )
    weights = ensemble.tune([x_NK[tuning] for x_NK in log_p_MNK], labels_N[tuning])
    weighted_NK = ensemble.mean(log_p_MNK, weights)
    results = [
        Result(name, None, 'all views', error_rates.errors(log_p_NK[others], labels_N[others]))
        for name, log_p_NK in (
            ('equal weights', ensemble.mean(log_p_MNK)),
            ('tuned weights', weighted_NK),
        )
    ]
    rows = [(net.name, f'{weight:.3f}') for net, weight in zip(nets, weights, strict=True)]
    print(f'{align_columns(rows)}\n\n{table(results, nets[0].views_NK.shape[1])}')
    is_tuning_N = np.isin(np.arange(len(labels_N)), tuning)
    summary = {'weights': weights, 'tuned_on': len(tuning), 'results': _plain(results)}
    return summary, {'weighted_probabilities': np.exp(weighted_NK), 'tuned_on': is_tuning_N}


def _plain(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Converts results to those of summary.json: errors are fractions, the loss is in nats."""
    return [
        {
            'net': net,
            'step': step,
            'views': views,
            'top1_error': errors.top1,
            'top1_interval': error_rates.interval(errors.top1, errors.images),
            'top5_error': errors.top5,
            'top5_interval': error_rates.interval(errors.top5, errors.images),
            'loss': errors.loss if math.isfinite(errors.loss) else None,  # NaN is no JSON
            'images': errors.images,
        }
        for net, step, views, errors in results
    ]


def _summary(
    config: Config, nets: Sequence[NetOutputs], results: Sequence[Result]
) -> dict[str, Any]:
    return {
        'dataset': config.dataset.folder or config.dataset.name,
        'split': config.dataset.eval_split,
        'classes': config.dataset.classes,
        'workdirs': [net.name for net in nets],
        'steps': [net.step for net in nets],
        'results': _plain(results),
    }


def read_changed_config(workdir: Path, changes: Mapping[str, Any]) -> Config:
    """Reads the settings of a run, and applies changes of its settings `dataset`.

    Raises:
      UserError: the folder holds no run, or not one on a folder of images, which has moved.
    """
    config = read_config(workdir)
    if 'folder' in changes and not config.dataset.folder:
        raise UserError(
            f'{workdir} is a run on {config.dataset.name}, not on a folder of images: '
            'leave out --folder'
        )
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **changes))


def _check_runs(workdirs: Sequence[Path], configs: Sequence[Config]) -> None:
    """Checks, before any image is read, that the runs are distinct and have the same images."""
    for place, (workdir, config) in enumerate(zip(workdirs, configs, strict=True)):
        Workdir(workdir).checkpoint_step()  # raises a UserError where there is no checkpoint
        for other in workdirs[:place]:
            if workdir.resolve() == other.resolve():
                raise UserError(f'{other} and {workdir} are the same run: name it once')
        first, own = configs[0].dataset, config.dataset
        if first.folder != own.folder:
            raise _different_images(
                workdirs[0], workdir, f'{first.folder or first.name}, {own.folder or own.name}'
            )
        if first.eval_split != own.eval_split:
            raise _different_images(workdirs[0], workdir, f'{first.eval_split}, {own.eval_split}')


def _common_images(workdirs: Sequence[Path], configs: Sequence[Config]) -> LabelledImages:
    """Reads the labels of the test images, and checks that they are the same for all nets."""
    by_settings: dict[Any, LabelledImages] = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        if config.dataset in by_settings:
            continue
        try:
            splits = open_splits(config)
        except UserError as error:
            raise UserError(f'{workdir}: {error}') from error
        by_settings[config.dataset] = images = read_labels(splits.eval)
        first = by_settings[configs[0].dataset]
        if what := difference(first, images):
            raise _different_images(workdirs[0], workdir, what)
    return by_settings[configs[0].dataset]


def difference(one: LabelledImages, other: LabelledImages) -> str:
    """Names the first difference between two sets of test images in a few words; '' if none."""
    for what, a, b in (
        ('classes', one.classes, other.classes),
        ('images', one.names, other.names),
    ):
        if len(a) != len(b):
            return f'{len(a):,} and {len(b):,} {what}'
        for x, y in zip(a, b, strict=True):
            if x != y:
                return f'{what} {x} and {y}'
    unequal = np.flatnonzero(one.labels != other.labels)
    if len(unequal):
        labels = (images.classes[images.labels[unequal[0]]] for images in (one, other))
        return f'{one.names[unequal[0]]} is {" and ".join(labels)}'
    return ''


def _different_images(one: Path, other: Path, what: str) -> UserError:
    return UserError(
        f'{one} and {other} are not evaluated on the same images ({what}): the nets of an ensemble '
        'need the same test images; --split and --folder choose the images for all'
    )
