"""Names the most probable classes of pictures by trained nets (§4.1, §6.1).

    python -m alexnet_jax.predict --workdir=runs/digits picture.jpg folder/
        the five most probable classes of each picture, with their probabilities; of a folder, all
        pictures in it and in its sub-folders; JPEG, PNG, BMP, GIF, WebP and TIFF
    python -m alexnet_jax.predict --workdir=runs/a,runs/b picture.jpg
        the mean of the probabilities of several nets with the same classes
    python -m alexnet_jax.predict --workdir=runs/digits --out=answers.csv folder/
        a file, which has the answers for all pictures once it exists
    python -m alexnet_jax.predict --workdir=runs/digits --top=1 --format=json folder/ | jq .
        one JSON object on each line, printed as soon as it is known
    curl https://... | python -m alexnet_jax.predict --workdir=runs/digits -
        the picture on standard input
    find . -name '*.jpg' -print0 | python -m alexnet_jax.predict --workdir=runs/digits -
        or the pictures and folders in a list there: one on each line, or with NUL after each

The data set of the run is not needed. Flags and pictures may be in any order; everything after --
is a picture or a folder. A picture that cannot be read is named on stderr and has no line in CSV
and JSON.

Exit codes: 0, all pictures were read; 1, some could not be read; 2, a mistake in the command, which
one line explains; 130, Ctrl-C: what was printed stays; 141, nobody reads the output any more.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.evaluation import run_flags
from alexnet_jax.evaluation.prediction import class_descriptions, picture_sources
from alexnet_jax.evaluation.prediction.picture_sources import Pictures
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_output_file, check_path
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors
from alexnet_jax.training.workdir import Workdir

_DEFAULT_TOP = 5
_FORMATS = ['table', 'csv', 'json']

_TOP = flags.DEFINE_integer(
    'top', None, 'The number of classes to name. Default: 5, or all where there are fewer.', 1
)
_VIEWS = flags.DEFINE_enum(
    'views',
    None,
    ['1', '5', '10'],
    'Views of each picture to average: 1, the centre crop; 5, with the corners; 10, with their '
    'horizontal flips. Default: as each run is evaluated.',
)
_FORMAT = flags.DEFINE_enum(
    'format',
    None,
    _FORMATS,
    'table, for people; csv, with a header, and with an apostrophe before what a spreadsheet would '
    'take for a formula; json, one object on each line. Default: by the suffix of --out (.csv, '
    '.json, .jsonl), otherwise table.',
)
_OUT = flags.DEFINE_string(
    'out', None, 'The file to write, complete or not at all. Default: the answers are printed.'
)
_NAMES = flags.DEFINE_string(
    'names',
    None,
    "File with descriptions of the classes, 'n01440764 tench, Tinca tinca' on each line, such as "
    "ImageNet's synset_words.txt or LOC_synset_mapping.txt. The name of the class ends at the "
    'first tab, or without one at the first space.',
)
flags.adopt_module_key_flags(run_flags)  # --help shows them


def main(arguments: Sequence[str]) -> int:
    """Names the classes of the pictures; returns the exit code."""
    with report_user_errors():
        refuse_several('alexnet_jax.predict')
        if not arguments[1:]:
            raise UserError(
                'no picture is named: python -m alexnet_jax.predict --workdir=DIR PICTURE FOLDER/ '
                '... (see --help)'
            )
        workdirs, checkpoint = run_flags.workdirs(), run_flags.checkpoint()
        top, out, names = _top(workdirs), _out(workdirs), _names()
        pictures = picture_sources.find(arguments[1:])
        _check_that_no_picture_is_replaced(out, pictures)
        views = None if _VIEWS.value is None else int(_VIEWS.value)
        # This imports JAX, which takes a while: mistakes in the command are reported before.
        from alexnet_jax.evaluation.prediction.run_prediction import Request, run

        unread = run(Request(workdirs, pictures, top, checkpoint, views, _format(out), out, names))
        return 1 if unread else 0


def _top(workdirs: Sequence[Path]) -> int:
    """Returns the number of classes to name, at most as many as the runs have."""
    classes = _classes(workdirs)
    top = _TOP.value
    if top is not None and top > classes:
        raise UserError(f'--top={top}: {workdirs[0]} has {classes:,} classes')
    return min(_DEFAULT_TOP, classes) if top is None else top


def _classes(workdirs: Sequence[Path]) -> int:
    """Returns the number of classes, and checks the runs as far as is possible without JAX."""
    numbers = [Workdir(workdir).read_config().dataset.classes for workdir in workdirs]
    for place, (workdir, number) in enumerate(zip(workdirs, numbers, strict=True)):
        if number != numbers[0]:
            raise UserError(
                f'{workdirs[0]} and {workdir} have different classes ({numbers[0]:,} and '
                f'{number:,}): the nets of an ensemble need the same classes in the same order'
            )
        for other in workdirs[:place]:
            if workdir.resolve() == other.resolve():
                raise UserError(f'{other} and {workdir} are the same run: name it once')
    return numbers[0]


def _out(workdirs: Sequence[Path]) -> Path | None:
    """Returns the file to write; None for stdout."""
    if _OUT.value is None:
        return None
    out = check_path(_OUT.value, '--out')
    check_output_file(out, '--out')
    for workdir in workdirs:
        Workdir(workdir).check_output(out, '--out')
    return out


def _names() -> list[tuple[str, str]] | None:
    """Returns the lines of the file that describes the classes."""
    if _NAMES.value is None:
        return None
    return class_descriptions.read(check_path(_NAMES.value, '--names'), '--names')


def _check_that_no_picture_is_replaced(out: Path | None, pictures: Pictures) -> None:
    if out is None or not out.exists():
        return
    for source in pictures.sources:
        path = source.picture
        if isinstance(path, str) and os.path.exists(path) and os.path.samefile(path, out):
            raise UserError(
                f'--out={printable(str(out))} is one of the pictures: choose a new file'
            )


def parse(arguments: list[str]) -> list[str]:
    """Parses the flags; returns the program and the pictures."""

    def describe_unknown(error: flags.UnrecognizedFlagError) -> str:
        for argument in arguments[1:]:
            if argument.startswith('-') and os.path.lexists(argument):  # from *.png, for example
                name = printable(argument)
                return f'{name} is taken for a flag, because it begins with -: write ./{name}'
        return str(error)

    return parse_flags(arguments, describe_unknown, positional=True)


def _format(out: Path | None) -> str:
    if _FORMAT.value is not None:
        return _FORMAT.value
    suffix = '' if out is None else out.suffix.lower()
    return {'.csv': 'csv', '.json': 'json', '.jsonl': 'json'}.get(suffix, 'table')


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse))
