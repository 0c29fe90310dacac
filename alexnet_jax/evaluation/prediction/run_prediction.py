"""Loads nets, and writes their predictions for pictures as soon as they are computed (§4.1)."""

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.evaluation.classifier import name_answers
from alexnet_jax.evaluation.prediction import (
    class_descriptions,
    formats,
    picture_sources,
    predicting,
)
from alexnet_jax.evaluation.prediction.picture_sources import Pictures
from alexnet_jax.evaluation.trained_net import NEWEST, Checkpoint
from alexnet_jax.runtime import compilation_cache, cpu_devices
from alexnet_jax.runtime.printing import complain, count, printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.training.run_files.inputs_file import Inputs


class Request(NamedTuple):
    """The pictures to predict, the nets, and the form of the answers.

    Attributes:
      workdirs: the folders of the runs whose probabilities are averaged.
      pictures: the pictures.
      top: the number of classes to name, at most as many as there are.
      checkpoint: of each run: 'newest'; 'best', the one with the lowest test error; or its training
        steps.
      views: of each picture, averaged: 1, 5 or 10; None: as each run is evaluated.
      format: table, csv or json.
      out: the file to write; None for stdout.
      names: names and descriptions of classes, in place of those of the run.
    """

    workdirs: Sequence[Path]
    pictures: Pictures
    top: int
    checkpoint: Checkpoint = NEWEST
    views: int | None = None
    format: str = 'table'
    out: Path | None = None
    names: Sequence[tuple[str, str]] | None = None


def run(request: Request) -> int:
    """Writes the most probable classes of each picture.

    Problems, progress and a summary are printed on stderr.

    Returns:
      The number of pictures and folders that could not be read.

    Raises:
      UserError: a run cannot be loaded, two nets have different classes, or the names are those of
        another net.
    """
    cpu_devices.prepare_cpu_devices()  # before JAX starts, which opening checkpoints causes
    cpu_devices.devices()  # if there are none, the error would otherwise name the checkpoints
    compilation_cache.enable()
    with contextlib.redirect_stdout(sys.stderr):  # a run may be so old that data are prepared
        nets = predicting.load(request.workdirs, request.checkpoint)
    descriptions = _descriptions(nets[0].inputs, request.names)
    start, pictures, classes = time.monotonic(), request.pictures, nets[0].classes
    for problem in pictures.problems:
        complain(f'alexnet_jax: {problem}')
    sources, out, done, unread = pictures.sources, request.out, 0, 0
    layout = formats.Layout(request.top, classes, any(descriptions), [x.name for x in sources])
    if request.format == 'table' and class_descriptions.are_missing(classes, descriptions):
        complain('the classes are WordNet ids: --names=synset_words.txt adds what they mean')
    form = formats.choose(request.format, layout, to_file=out is not None)
    with (
        contextlib.closing(predicting.predict(nets, sources, request.views)) as batches,
        ProgressBars() as bars,
        formats.open_output(out, exact=request.format == 'csv') as write,
    ):
        write(form.header())
        is_long = len(sources) > nets[0].batch_size
        if is_long:
            bars.show_images('predicting', 0, len(sources))
        for batch in batches:
            with bars.hidden():
                for name, log_p_K, problem in batch:
                    if log_p_K is None:
                        complain(f'alexnet_jax: {printable(name)} {problem}')
                    else:
                        best = name_answers(log_p_K, classes, descriptions, request.top)
                        write(form.format(name, best))
            done += len(batch)
            unread += sum(answer.log_p_K is None for answer in batch)
            if is_long:
                bars.show_images('predicting', done, len(sources))
    if len(sources) > 1 or out is not None:
        _summarize(pictures, unread, time.monotonic() - start, out)
    return unread + len(pictures.problems)


def _descriptions(inputs: Inputs, names: Sequence[tuple[str, str]] | None) -> tuple[str, ...]:
    """Returns the description of each class; complains if the names do not fit the net."""
    if names is None:
        return inputs.descriptions
    descriptions, complaint = class_descriptions.match(names, inputs.classes, '--names')
    if complaint:
        complain(f'alexnet_jax: {complaint}')
    return descriptions


def _summarize(pictures: Pictures, unread: int, seconds: float, out: Path | None) -> None:
    """Prints how many pictures there were on stderr, where it is not among the answers."""
    parts = [f'{count(len(pictures.sources), "picture")} in {seconds:.1f} s']
    if unread:
        parts.append(f'{unread:,} of them could not be read')
    if pictures.problems:
        parts.append(f'{count(len(pictures.problems), "folder")} could not be read')
    if out is not None:
        parts.append(f'written to {printable(str(out))}')
    complain('; '.join(parts) + picture_sources.describe_others(pictures.others))
