"""Tests nets on the same images, one after the other and as one (§4.1, §6)."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources, synthetic
from alexnet_jax.evaluation import ensemble, error_rates, prediction_files
from alexnet_jax.evaluation.trained_net import Trained, Truth, newest_step, read_config, truth
from alexnet_jax.runtime import atomic_files, compilation_cache, cpu_devices
from alexnet_jax.runtime.text_table import aligned
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import start_record


class Net(NamedTuple):
    """What a net says of the test images.

    Attributes:
      name: its workdir.
      step: training steps done.
      views: how many test views there are.
      centre_NK: (N, K) float32, the softmax for the centre crop.
      views_NK: (N, K) float32, its mean over all views.
    """

    name: str
    step: int
    views: int
    centre_NK: np.ndarray
    views_NK: np.ndarray


class Result(NamedTuple):
    """A line of the table.

    Attributes:
      net: its workdir, or what several nets are combined by.
      step: of its training; None for several nets.
      seen: which part of the images.
    """

    net: str
    step: int | None
    seen: str
    errors: error_rates.Errors


def default_folder(workdirs: Sequence[Path]) -> Path:
    """Where files are written, if nobody says."""
    return workdirs[0] / ('evaluation' if len(workdirs) == 1 else f'evaluation_of_{len(workdirs)}')


def test(workdirs: Sequence[Path], changes: Mapping[str, Any], out: Path, tune: bool) -> None:
    """Tests the nets of these runs, prints tables, and writes files.

    Args:
      changes: of the settings `dataset`: which images are tested, and where they are.
      out: folder for the files.
      tune: look for weights of the nets, too.

    Raises:
      UserError: a folder has no trained net, two nets are not tested on the same images, an image
        cannot be read, or nothing can be written to `out`.
    """
    configs = [_config(workdir, changes) for workdir in workdirs]
    cpu_devices.prepare_cpu_devices()  # looking for checkpoints starts JAX
    compilation_cache.keep()
    _check_runs(workdirs, configs)
    known = _common_truth(workdirs, configs)
    if len(known.labels) < 1 + tune:
        raise UserError(f'{configs[0].dataset.eval_split} has too few images: choose a --split')
    _check_writable(out)
    nets, made = _run(workdirs, configs)
    found = results(nets, known.labels)
    if configs[0].dataset.name == 'synthetic':
        print(synthetic.NOTICE)
    print(f'\n{table(found)}')
    summary, extra = _summary(configs[0], nets, found), {}
    if tune:
        summary['tuned'], extra = _tune(nets, known.labels)
    print('\nWilson intervals: with so many images, differences within them may be chance.')
    together = ensemble.mean([net.views_NK for net in nets])
    written = prediction_files.write(out, known, together, extra)
    written.append(out / 'summary.json')
    with atomic_files.whole(written[-1]) as partial:
        partial.write_text(json.dumps(summary | {'made': made}, indent=2) + '\n')
    print(f'written to {out}: {", ".join(path.name for path in written)}')


def _run(workdirs: Sequence[Path], configs: Sequence[Config]) -> tuple[list[Net], dict[str, Any]]:
    """One net after the other; and the record of when and on what."""
    nets, made = [], {}
    for number, (workdir, config) in enumerate(zip(workdirs, configs, strict=True), 1):
        print(f'testing {workdir} ({number} of {len(workdirs)})', flush=True)
        net = Trained(workdir, config=config)
        nets.append(Net(str(workdir), net.step, config.views, *net.probabilities()))
        made = start_record(net.mesh)
    return nets, made


def results(nets: Sequence[Net], labels_N: np.ndarray) -> list[Result]:
    """The errors of each net, and of their mean where there are several."""
    found = []
    for net in nets:
        seen = {'centre crop': net.centre_NK}
        if net.views > 1:
            seen[f'mean of {net.views} views'] = net.views_NK
        found += [Result(net.name, net.step, *_errors(x, labels_N)) for x in seen.items()]
    if len(nets) > 1:
        seen = {'centre crop': ensemble.mean([net.centre_NK for net in nets])}
        if any(net.views > 1 for net in nets):
            seen['all views'] = ensemble.mean([net.views_NK for net in nets])
        name = f'mean of {len(nets)} nets'
        found += [Result(name, None, *_errors(x, labels_N)) for x in seen.items()]
    return found


def _errors(seen: tuple[str, np.ndarray], labels_N: np.ndarray) -> tuple[str, error_rates.Errors]:
    return seen[0], error_rates.errors(seen[1], labels_N)


def table(found: Sequence[Result]) -> str:
    """Errors in percent, with their intervals."""
    images = found[0].errors.images
    head = (f'{images:,} images', 'step', 'top-1', '95 % interval', 'top-5', '95 % interval')
    rows: list[Sequence[str]] = [head]
    for net, step, seen, errors in found:
        cells = [x for error in (errors.top1, errors.top5) for x in _percent(error, images)]
        rows.append((f'{net}, {seen}', '' if step is None else str(step), *cells))
    return aligned(rows)


def _percent(error: float, images: int) -> tuple[str, str]:
    low, high = error_rates.interval(error, images)
    return f'{error:.2%}', f'{low:.2%} to {high:.2%}'


def _tune(
    nets: Sequence[Net], labels_N: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Finds weights on one half of the images, and prints the errors of the other half.

    Returns:
      What summary.json and what probabilities.npz have of it.
    """
    tuned_on, others = ensemble.halves(labels_N)
    p_MNK = [net.views_NK for net in nets]
    print(
        f'\nweights tuned on {len(tuned_on):,} images, every second of each class; errors of the '
        'others, which had no part in it:',
        flush=True,
    )
    weights = ensemble.tune([p_NK[tuned_on] for p_NK in p_MNK], labels_N[tuned_on])
    weighted = ensemble.mean(p_MNK, weights)
    found = [
        Result(name, None, 'all views', error_rates.errors(p_NK[others], labels_N[others]))
        for name, p_NK in (('equal weights', ensemble.mean(p_MNK)), ('tuned weights', weighted))
    ]
    shares = [(net.name, f'{weight:.3f}') for net, weight in zip(nets, weights, strict=True)]
    print(f'{aligned(shares)}\n\n{table(found)}')
    chosen = np.isin(np.arange(len(labels_N)), tuned_on)
    summary = {'weights': weights, 'tuned_on': len(tuned_on), 'results': _plain(found)}
    return summary, {'weighted_probabilities': weighted, 'tuned_on': chosen}


def _plain(found: Sequence[Result]) -> list[dict[str, Any]]:
    """As in summary.json: fractions, and the loss in nats."""
    return [
        {'net': net, 'step': step, 'seen': seen}
        | {
            'top1_error': errors.top1,
            'top1_interval': error_rates.interval(errors.top1, errors.images),
        }
        | {
            'top5_error': errors.top5,
            'top5_interval': error_rates.interval(errors.top5, errors.images),
        }
        | {'loss': errors.loss, 'images': errors.images}
        for net, step, seen, errors in found
    ]


def _summary(config: Config, nets: Sequence[Net], found: Sequence[Result]) -> dict[str, Any]:
    return {
        'dataset': config.dataset.folder or config.dataset.name,
        'split': config.dataset.eval_split,
        'classes': config.dataset.classes,
        'workdirs': [net.name for net in nets],
        'steps': [net.step for net in nets],
        'results': _plain(found),
    }


def _config(workdir: Path, changes: Mapping[str, Any]) -> Config:
    """The settings of a run, with its images where they are now."""
    config = read_config(workdir)
    if 'folder' in changes and not config.dataset.folder:
        raise UserError(
            f'{workdir} is a run on {config.dataset.name}, not on a folder of images: '
            'leave out --folder'
        )
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **changes))


def _check_runs(workdirs: Sequence[Path], configs: Sequence[Config]) -> None:
    """What can be said before anything is read: each is a run of its own, on the same images."""
    for place, (workdir, config) in enumerate(zip(workdirs, configs, strict=True)):
        newest_step(workdir)
        for other in workdirs[:place]:
            if workdir.resolve() == other.resolve():
                raise UserError(f'{other} and {workdir} are the same run: name it once')
        first, here = configs[0].dataset, config.dataset
        if first.folder != here.folder:
            raise _unlike(
                workdirs[0], workdir, f'{first.folder or first.name}, {here.folder or here.name}'
            )
        if first.eval_split != here.eval_split:
            raise _unlike(workdirs[0], workdir, f'{first.eval_split}, {here.eval_split}')


def _common_truth(workdirs: Sequence[Path], configs: Sequence[Config]) -> Truth:
    """The test images, which must be the same for all nets."""
    by_settings: dict[Any, Truth] = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        if config.dataset in by_settings:
            continue
        try:
            splits = sources.open_splits(config.dataset, config.loader.skip_bad)
        except UserError as error:
            raise UserError(f'{workdir}: {error}; if images moved: --data_dir, --folder') from error
        by_settings[config.dataset] = here = truth(splits.eval)
        first = by_settings[configs[0].dataset]
        if what := difference(first, here):
            raise _unlike(workdirs[0], workdir, what)
    return by_settings[configs[0].dataset]


def difference(one: Truth, other: Truth) -> str:
    """What is not the same in two sets of test images, in a few words; '' if nothing."""
    for what, a, b in (
        ('classes', one.classes, other.classes),
        ('images', one.names, other.names),
    ):
        if len(a) != len(b):
            return f'{len(a):,} and {len(b):,} {what}'
        for x, y in zip(a, b, strict=True):
            if x != y:
                return f'{what} {x} and {y}'
    unlike = np.flatnonzero(one.labels != other.labels)
    if len(unlike):
        labels = (truth.classes[truth.labels[unlike[0]]] for truth in (one, other))
        return f'{one.names[unlike[0]]} is {" and ".join(labels)}'
    return ''


def _unlike(one: Path, other: Path, what: str) -> UserError:
    return UserError(
        f'{one} and {other} are not tested on the same images ({what}): the nets of an ensemble '
        'must be; --split and --folder choose them for all'
    )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}; choose another --out') from (
            error
        )
    if not writable:
        raise UserError(f'cannot write to {folder}: choose another --out')
