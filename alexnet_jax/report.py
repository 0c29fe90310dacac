"""Writes a report of a run with the paper's figures, as one HTML page for screens and for print.

    python -m alexnet_jax.report --workdir=runs/digits
        writes runs/digits/report.html from the newest checkpoint, also while the run is in training
    python -m alexnet_jax.report --workdir=DIR --relu=DIR --tanh=DIR
        adds Figure 1, the training errors of these two runs
    python -m alexnet_jax.report --with=DIR,DIR --out=FILE
        the curves of these runs in common plots, their final errors, and the settings that differ;
        with --workdir=DIR, too, as a section of the report of that run, which is the first of them

The page needs no network and no scripts. Exit codes: 0, the page is written; 2, a mistake by the
user, which one line explains.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from alexnet_jax.evaluation import moved_images
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.reporting import history
from alexnet_jax.reporting.comparisons import ablation_section, figure1, overlays
from alexnet_jax.reporting.markup import joined
from alexnet_jax.reporting.page import Section, code, page, paragraph
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.paths import check_output_file, check_path, split_folders
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors
from alexnet_jax.training.workdir import Workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run.')
_OUT = flags.DEFINE_string(
    'out',
    None,
    'The file to write. Default: report.html in the workdir, or comparison.html without --workdir.',
)
_IMAGES = flags.DEFINE_integer(
    'images', 8, 'The number of test images to show with their most probable labels.', 1, 10_000
)
_RELU = flags.DEFINE_string('relu', None, 'The workdir of a run with ReLUs, for Figure 1.')
_TANH = flags.DEFINE_string(
    'tanh', None, 'The workdir of a run with tanh, else with the same settings, for Figure 1.'
)
_WITH = flags.DEFINE_multi_string(
    'with', [], 'Workdirs of other runs, separated by commas, to compare in common plots.'
)
_ABLATIONS = flags.DEFINE_string(
    'ablations',
    None,
    'Results of alexnet_jax.ablations. Default: ablations.json in the workdir, if it exists.',
)
flags.adopt_module_key_flags(moved_images)  # --help shows them


def main(_: Sequence[str]) -> None:
    """Writes the report that the flags describe."""
    with report_user_errors():
        refuse_several('alexnet_jax.report')
        others = [check_path(name, '--with') for name in split_folders(_WITH.value)]
        if _WITH.value and not others:
            raise UserError('--with= is empty: name the folders of runs, or leave it out')
        if not _WORKDIR.value:
            out = _write_comparison(others)
        else:
            out = _write_report(check_path(_WORKDIR.value, '--workdir'), others)
        print(out)


def _write_comparison(folders: list[Path]) -> Path:
    """Writes a page that compares runs, and returns its path."""
    if not folders:
        raise UserError('name the folder of the run: --workdir=DIR, or of several: --with=DIR,DIR')
    for flag in (_RELU, _TANH, _ABLATIONS):
        if flag.value is not None:
            raise UserError(f'--{flag.name} is shown in the report of a run: name it by --workdir')
    out = check_path('comparison.html' if _OUT.value is None else _OUT.value, '--out')
    check_output_file(out, '--out')
    for folder in folders:
        Workdir(folder).check_output(out, '--out')
    section = overlays.compare(folders)
    command = paragraph('Made by ', code(_command()), '.')
    _write(out, page('Comparison of runs', command, [section]))
    return out


def _write_report(workdir: Path, others: list[Path]) -> Path:
    """Writes the report of a run, and returns its path."""
    out = workdir / 'report.html' if _OUT.value is None else check_path(_OUT.value, '--out')
    changes = moved_images.places()
    if workdir.is_dir():
        check_output_file(out, '--out')
        Workdir(workdir).check_output(out, '--out')
    _write(out, _page_of(workdir, changes, _comparisons(workdir, others)))
    return out


def _write(file: Path, text: str) -> None:
    with atomic_files.replace(file) as partial:
        partial.write_text(text, encoding='utf-8')


def _command() -> str:
    return shlex.join(['python', '-m', 'alexnet_jax.report', *sys.argv[1:]])


def _comparisons(workdir: Path, others: list[Path]) -> list[Section]:
    """Returns the sections about several runs.

    They are made first, so that mistakes in their flags are reported at once.
    """
    parts = [overlays.compare([workdir, *others])] if others else []
    relu, tanh = _RELU.value, _TANH.value
    if (relu is None) != (tanh is None):
        raise UserError('Figure 1 compares two runs: give both --relu=DIR and --tanh=DIR')
    if relu is not None and tanh is not None:
        parts.append(figure1.figure1(check_path(relu, '--relu'), check_path(tanh, '--tanh')))
    if _ABLATIONS.value is not None:
        parts.append(ablation_section.ablations(check_path(_ABLATIONS.value, '--ablations')))
    elif (workdir / 'ablations.json').is_file():
        parts.append(ablation_section.ablations(workdir / 'ablations.json'))
    return parts


def _page_of(workdir: Path, changes: dict[str, str], compared: list[Section]) -> str:
    """Returns the page, made from the newest checkpoint of the run."""
    # These import JAX, which takes a while: mistakes are reported before.
    from alexnet_jax.evaluation.run_evaluation import read_changed_config
    from alexnet_jax.evaluation.trained_net import TrainedNet
    from alexnet_jax.reporting import overview, sections
    from alexnet_jax.runtime import compilation_cache

    compilation_cache.enable()
    trained = TrainedNet(workdir, config=read_changed_config(workdir, changes))
    config, classes, log = trained.config, trained.source.classes, history.read(workdir)
    labels_N = trained.labels()
    centre_NK, mean_NK = trained.log_probabilities()
    grey = all(overview.is_grey(trained.image(n)) for n in range(min(16, len(labels_N))))
    kernel_THWIO = np.asarray(trained.params['conv1']['kernel_THWIO'])
    name = workdir.resolve().name
    return page(
        f'{name}: AlexNet on {config.dataset.folder or config.dataset.name}',
        joined(
            overview.notes(config, trained.step, log),
            overview.errors(config, labels_N, centre_NK, mean_NK),
        ),
        [
            overview.origin(workdir, config, trained.step, log, _command()),
            overview.curves(config, log),
            *compared,
            sections.filters(kernel_THWIO, grey),
            sections.predictions(trained.image, mean_NK, labels_N, classes, _IMAGES.value),
            sections.nearest(trained.image, trained.last_hidden(), labels_N, classes),
            sections.confusions(mean_NK, labels_N, classes),
            overview.settings(config),
        ],
    )


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
