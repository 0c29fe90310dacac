"""Shows a run as the paper shows its net: one HTML page, for a browser, a phone or paper.

    python -m alexnet_jax.report --workdir=runs/digits
        writes runs/digits/report.html; of a run that is still in training, its newest checkpoint
    python -m alexnet_jax.report --workdir=DIR --relu=DIR --tanh=DIR
        with Figure 1, the training error of these two runs

The page needs no network and no scripts. Exit codes: 0 written, 2 a mistake (one line says what).
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from alexnet_jax.reporting import comparisons, history
from alexnet_jax.reporting.markup import joined
from alexnet_jax.reporting.page import Section, page
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_WORKDIR = flags.DEFINE_string('workdir', '', 'Folder of the run.')
_OUT = flags.DEFINE_string('out', '', 'The page to write. Default: report.html in the workdir.')
_IMAGES = flags.DEFINE_integer('images', 8, 'Test images to show with their probable labels.', 1)
_RELU = flags.DEFINE_string('relu', '', 'Workdir of a run with ReLUs, for Figure 1.')
_TANH = flags.DEFINE_string('tanh', '', 'Workdir of the same run with tanh, for Figure 1.')
_ABLATIONS = flags.DEFINE_string(
    'ablations', '', 'Results of ablations. Default: ablations.json in the workdir, if it is there.'
)


def main(_: Sequence[str]) -> None:
    """Does what the flags say."""
    with report_user_errors():
        if not _WORKDIR.value:
            raise UserError('say which run: --workdir=DIR')
        workdir = Path(_WORKDIR.value).expanduser()
        out = Path(_OUT.value or workdir / 'report.html').expanduser()
        if _OUT.value and not out.parent.is_dir():
            raise UserError(f'--out={out}: there is no folder {out.parent}')
        compared = _comparisons(workdir)
        text = _page_of(workdir, compared)
        with atomic_files.replace(out) as partial:
            partial.write_text(text, encoding='utf-8')
        print(out)


def _comparisons(workdir: Path) -> list[Section]:
    """The sections about several runs; first, since their mistakes show at once."""
    found = []
    relu, tanh = _RELU.value, _TANH.value
    if bool(relu) != bool(tanh):
        raise UserError('Figure 1 is of two runs: give both --relu=DIR and --tanh=DIR')
    if relu:
        found.append(comparisons.figure1(Path(relu).expanduser(), Path(tanh).expanduser()))
    file = Path(_ABLATIONS.value or workdir / 'ablations.json').expanduser()
    if _ABLATIONS.value or file.exists():
        found.append(comparisons.ablations(file))
    return found


def _page_of(workdir: Path, compared: list[Section]) -> str:
    """The page, from the newest checkpoint of the run."""
    # And with them JAX: a mistake is told before.
    from alexnet_jax.evaluation.trained_net import TrainedNet
    from alexnet_jax.reporting import overview, sections
    from alexnet_jax.runtime import compilation_cache

    compilation_cache.enable()
    trained = TrainedNet(workdir)
    config, classes, log = trained.config, trained.source.classes, history.read(workdir)
    labels_N = trained.labels()
    centre_NK, mean_NK = trained.probabilities()
    grey = all(overview.is_grey(trained.image(n)) for n in range(min(16, len(labels_N))))
    kernel_THWIO = np.asarray(trained.params['conv1']['kernel_THWIO'])
    command = shlex.join(['python', '-m', 'alexnet_jax.report', *sys.argv[1:]])
    name = workdir.resolve().name
    return page(
        f'{name}: AlexNet on {config.dataset.folder or config.dataset.name}',
        joined(
            overview.notes(config, trained.step, log),
            overview.errors(config, labels_N, centre_NK, mean_NK),
        ),
        [
            overview.origin(workdir, config, trained.step, log, command),
            overview.curves(config, log),
            *compared,
            sections.filters(kernel_THWIO, grey),
            sections.predictions(trained.image, mean_NK, labels_N, classes, _IMAGES.value),
            sections.nearest(trained.image, trained.last_hidden(), labels_N, classes),
            sections.confusions(mean_NK, labels_N, classes),
            overview.settings_of(config),
        ],
    )


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
