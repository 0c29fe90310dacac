"""Random command lines over all programs, and what must hold for each of them.

    python -m tests.cli.generated_commands --count=500
        runs that many and prints each that fails, with its command

Flags and settings get odd values by their types, folders and files are damaged, and variables of
the environment are set. Whatever is given, a program succeeds, or says in one line what is wrong;
it has no traceback, and it ends. A value that cannot be meant, such as a number outside of the
range of its setting, must be refused. Command line N of a seed is the same in every run.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alexnet_jax.config.settings import Setting, catalogue

ROOT = Path(__file__).parents[2]
SECONDS = 120.0  # within which a program must end, on a busy machine
# Settings that decide how long a run takes or that would download data, and their values in runs.
TINY = {
    'model.width': '0.03',
    'optimizer.batch_size': '128',
    'optimizer.epochs': '0.1',
    'evaluation.batch_size': '128',
    'evaluation.average_views': 'false',
    'dataset.eval_split': 'test[:40]',
}
# Their values decide how long a run takes, and any of them may be large: they are only shown.
ONLY_SHOWN = ('model.', 'mesh.', 'dataset.', 'augmentation.', 'loader.', 'optimizer.')
RUN = ['--config=digits', *(f'--config.{name}={value}' for name, value in TINY.items())]
EXIT_CODES = (0, 2, 75, 130, 141)

# Files and folders that command lines name.
_CONFIGS = {
    'good.py': 'from alexnet_jax.configs import digits\nget_config = digits.get_config\n',
    'raises.py': 'def get_config():\n    raise ValueError("two\\nlines")\n',
    'exits.py': 'import sys\nsys.exit(0)\n',
    'none.py': 'def get_config():\n    return None\n',
    'syntax.py': 'def get_config(:\n',
    'empty.py': '',
    'unknown.py': 'from ml_collections import ConfigDict\n'
    'def get_config():\n    return ConfigDict({"a": {"b": object()}})\n',
}
_DAMAGES = {
    'torn config': ('config.json', '{"config": {'),
    'null config': ('config.json', 'null'),
    'list config': ('config.json', '[]'),
    'empty config': ('config.json', ''),
    'binary config': ('config.json', '\0\udcff'),
    'odd metrics': ('metrics.jsonl', '3\n{}\nnull\n{"step": 1}\n{"step": "x"}\n'),
    'odd values': ('metrics.jsonl', '{"step": 2, "epoch": null, "train/loss": "a"}\n'),
    'binary metrics': ('metrics.jsonl', '\udcff\udcfe\0'),
    'torn table': ('ablations.json', '{"rows": ['),
}
_COPIES = ('run', 'run with blanks', 'röm', 'a,b', 'a=b', '-dash', "it's", 'x' * 200)
_FILES = (
    *(*_COPIES, *_DAMAGES, *_CONFIGS, 'other net', 'bad value', 'other data', 'no checkpoints'),
    *('empty', 'file', 'loop', 'nowhere', 'pipe', 'flags', 'tfds', 'not there'),
    *('pictures', 'picture.png', 'words.txt'),
)


class CommandLine(NamedTuple):
    """A program with its arguments and environment, as a user gives them.

    Attributes:
      program: the name of the module.
      arguments: its arguments.
      environment: variables to set; None for those to unset.
      wrong: the arguments that must be refused.
    """

    program: str
    arguments: list[str]
    environment: dict[str, str | None]
    wrong: list[str]

    def text(self) -> str:
        """Returns it for a shell."""
        unset = [f'-u {name}' for name, value in self.environment.items() if value is None]
        changed = [f'{k}={shlex.quote(v)}' for k, v in self.environment.items() if v is not None]
        words = ['env', *unset, *changed] if self.environment else []
        return ' '.join([*words, 'python -m', self.program, shlex.join(self.arguments)])


def generate(seed: str, place: Path) -> CommandLine:
    """Returns a command line over the files in a folder that `furnish` has made."""
    rng = random.Random(seed)
    kind = rng.choices(
        ['dry_run', 'run', 'prepare', 'evaluate', 'predict', 'export']
        + ['report', 'ablations', 'sweep', 'list'],
        [10, 2, 3, 4, 4, 3, 3, 1, 1, 0.5],
    )[0]
    arguments, wrong = _PROGRAMS[kind](rng, place)
    environment = {'TFDS_DATA_DIR': str(place / 'tfds'), 'JAX_PLATFORMS': 'cpu'}
    environment |= _NO_BUCKETS | {
        'HOME': str(place / 'home'),
        'XDG_CACHE_HOME': str(place / 'cache'),
    }
    if rng.random() < 0.15:
        name = rng.choice(list(_ENVIRONMENT))
        environment[name] = rng.choice(_ENVIRONMENT[name])
    if rng.random() < 0.03:
        arguments.insert(rng.randrange(len(arguments) + 1), rng.choice(_STRAY))
        wrong = []  # it may end all flags, or ask for help
    program = {'dry_run': 'main', 'run': 'main', 'list': ''}.get(kind, kind)
    return CommandLine(f'alexnet_jax.{program}'.rstrip('.'), arguments, environment, wrong)


def furnish(place: Path, run: Path, tfds: Path) -> None:
    """Makes the files and folders that the command lines name.

    Args:
      place: an empty folder.
      run: a run that has ended, which is copied.
      tfds: where its data sets are.
    """
    (place / 'tfds').symlink_to(tfds)
    for name in _COPIES:
        shutil.copytree(run, place / name)
    for name, (file, text) in _DAMAGES.items():
        shutil.copytree(run, place / name)
        (place / name / file).write_bytes(os.fsencode(text))
    _reconfigure(run, place / 'other net', lambda c: c['model'].update(width=0.125))
    _reconfigure(run, place / 'bad value', lambda c: c['model'].update(width='wide'))
    _reconfigure(run, place / 'other data', lambda c: c['dataset'].update(name='no such'))
    shutil.copytree(run, place / 'no checkpoints', ignore=shutil.ignore_patterns('checkpoints'))
    (place / 'empty').mkdir()
    (place / 'file').write_text('text')
    (place / 'loop').symlink_to(place / 'loop')
    (place / 'nowhere').symlink_to(place / 'not there')
    os.mkfifo(place / 'pipe')
    _make_pictures(place)
    for name, text in _CONFIGS.items():
        (place / name).write_text(text)
    (place / 'flags').write_text('--config=digits\n# comment\n--config.seed=5\n')
    (place / 'odd flags').write_text('--config.sed=5\n--nothing\n')


def _make_pictures(place):
    (place / 'pictures' / 'more').mkdir(parents=True)
    for name in ('picture.png', 'pictures/a.png', 'pictures/more/=b.PNG', 'pictures/odd.jpg'):
        Image.linear_gradient('L').save(place / name, 'PNG')
    (place / 'pictures' / 'torn.png').write_bytes((place / 'picture.png').read_bytes()[:300])
    (place / 'pictures' / 'notes.txt').write_text('text')
    (place / 'words.txt').write_text('0 zero\n1 one\n11 eleven\n')


def _reconfigure(run, copy, change):
    shutil.copytree(run, copy)
    record = json.loads((copy / 'config.json').read_text())
    change(record['config'])
    (copy / 'config.json').write_text(json.dumps(record))


def check(line: CommandLine, place: Path, seconds: float = SECONDS) -> list[str]:
    """Runs a command line in a folder; returns what is wrong with how it ended."""
    environment = os.environ | {k: v for k, v in line.environment.items() if v is not None}
    environment.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
    environment['PYTHONPATH'] = str(ROOT)
    environment.pop('JAX_NUM_CPU_DEVICES', None)
    for name, value in line.environment.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    process = subprocess.Popen(
        [sys.executable, '-m', line.program, *line.arguments],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # programs that start others pass it on
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
        return [f'it has not ended in {seconds:.0f} s']
    texts = (text.decode(errors='replace') for text in (out, err))
    return judge_end(line, process.returncode, *texts)


def judge_end(line: CommandLine, code: int, out: str, err: str) -> list[str]:
    """Returns what is wrong with how a command line has ended, [] if nothing is."""
    return list(_faults(line, code, out, err))


def _faults(line, code, out, err):
    lines = [text for text in re.split(r'[\r\n]+', err) if text.strip()]
    may_find_faults = '--check' in line.arguments or line.program == 'alexnet_jax.predict'
    codes = (*EXIT_CODES, 1) if may_find_faults else EXIT_CODES
    if code not in codes:
        yield f'exit code {code}: {lines[-1] if lines else ""}'
    if 'Traceback' in err:
        yield f'a traceback: {lines[-1]}'
    if code == 2 and (len(lines) != 1 or not lines[0].startswith('alexnet_jax: ')):
        yield f'{len(lines)} lines in place of one: {lines[:3]}'
    if code == 2 and len(err) > 3000:
        yield f'a message of {len(err)} characters'
    if line.wrong and code == 0:
        yield f'accepted: {line.wrong}'
    if re.search(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]', re.sub(r'\x1b\[K|\x1b\[A', '', out + err)):
        yield 'control characters are printed'


# Values of flags and settings. Each is a text, and whether it must be refused.

_DIGITS = ('\uff11\uff12', '\u0663', '\u00b2')
_NOT_NUMBERS = ('', 'x', '1,5', '1e', '--', 'None', '0x', 'nan', '\x1b[2J', *_DIGITS)
_NOT_BOOLEANS = ('', '2', 'maybe', 'tru')
_ODD_TUPLES = ("('relu',)", '[1, 2', 'None', '{}', '((1,),)', '(', '"', '1,,2')
_ODD_TEXT = (
    *('', ' ', 'no such', 'a\nb', '\x1b[31m', 'é', "'", '=1+1', '%s', '{}', '[1]', 'x' * 999),
)
# Requests to buckets end on this machine, where nothing answers.
_NO_BUCKETS = {
    'TENSORSTORE_GCS_HTTP_URL': 'http://127.0.0.1:9',
    'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
    'AWS_ENDPOINT_URL_S3': 'http://127.0.0.1:9',
    'AWS_ACCESS_KEY_ID': 'someone',
    'AWS_SECRET_ACCESS_KEY': 'secret',
}
# No path outside of the folder can be written to, not even by root.
_ODD_PATHS = (
    *(
        '',
        ' ',
        '.',
        '..',
        '/proc/x',
        '/sys/x',
        '/proc',
        'file',
        'file/x',
        'not there/x',
        'gs://b/x',
    ),
    *('s3://b', '~nobody-has-this-name/x', 'a' * 300, 'x/' * 2500, 'a\nb', 'a\tb', '\x1b[31m'),
    *('\udcff', '[1]', 'a*', 'a?', 'file://x', '-', '--', '{}', '~', '~/x', 'pipe', '*'),
)


def _path(rng, place, *usual):
    """A path: mostly one that exists and is meant, or any other."""
    if usual and rng.random() < 0.5:
        return str(place / rng.choice(usual))
    if rng.random() < 0.5:
        return str(place / rng.choice(_FILES))
    return rng.choice(_ODD_PATHS)


def _number(rng, setting: Setting):
    bounds = setting.range
    low, high = (getattr(bounds, name, None) for name in ('low', 'high'))
    usual = ['1', '2', '3', '64'] if setting.type is int else ['0.5', '1', '1e-3', '2.5e0', '-0.0']
    odd = ['0', '-1', '7', '1e3', '-1.5', '1_0', ' 1', '+1', '1' * 30, '1e308', '1e400', '1e-320']
    text = rng.choice(usual if rng.random() < 0.5 else [*odd, *_NOT_NUMBERS])
    if low is not None and rng.random() < 0.3:
        text = str(rng.choice([low, low - 1, low + 1, high, high + 1, 2 * high]))
    try:
        value = setting.type(text)
    except (ValueError, OverflowError):
        return text, True
    is_wrong = not text.isascii() or value != value or abs(value) == float('inf')
    return text, bool(is_wrong or (bounds and bounds.problem(value)))


def _value(rng, place, setting: Setting):
    """A text for a setting, and whether it must be refused."""
    if setting.is_tuple:
        item = Setting(setting.name, setting.type, False, setting.range, '')
        items = [_value(rng, place, item) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        if rng.random() < 0.15:
            return rng.choice(_ODD_TUPLES), False
        texts = [text for text, _ in items]
        is_plain = all(x.strip() and ',' not in x and x[0] not in '\'"([' for x in texts)
        return ','.join(texts), is_plain and any(wrong for _, wrong in items)
    if setting.type is bool:
        text = rng.choice(['true', 'false', 'True', 'yes', '0', '1', 'off', *_NOT_BOOLEANS])
        return text, text in _NOT_BOOLEANS
    if setting.type in (int, float):
        return _number(rng, setting)
    if setting.range:
        choices = setting.range.choices
        text = rng.choice([*choices, *choices, choices[0].upper(), choices[0][:-1], *_ODD_TEXT])
        return text, text not in choices
    if setting.name.endswith(('workdir', 'data_dir', 'folder')):
        return _path(rng, place), False
    usual = ['digits', 'synthetic'] if setting.name.endswith('name') else ['train', 'test[:50%]']
    odd = ['digits:9.9.9', 'digits/x', 'test[5:2]', 'train+test', 'test[', 'all', *_ODD_TEXT]
    return rng.choice([*usual, *odd]), False


def _settings(rng, place, names, most):
    arguments, wrong = [], []
    for name in rng.sample(names, rng.randint(0, most)):
        text, is_wrong = _value(rng, place, catalogue()[name])
        argument = f'--config.{name}={text}'
        arguments.append(argument)
        wrong += [argument] if is_wrong else []
    return arguments, wrong


def _config(rng, place):
    if rng.random() < 0.6:
        return []
    recipes = ('ilsvrc2012', 'cifar10', 'zeiler_fergus', 'fall2011', 'digits.py', 'digit')
    files = [str(place / name) for name in _CONFIGS]
    return [f'--config={rng.choice([*3 * recipes, *files, *_ODD_PATHS])}']


# Programs: each returns arguments, and those that must be refused.


def _dry_run(rng, place):
    settings, wrong = _settings(rng, place, list(catalogue()), 4)
    arguments = ['--dry_run', *_config(rng, place), *settings]
    if rng.random() < 0.3:
        arguments.append(f'--workdir={_path(rng, place)}')
    if rng.random() < 0.2:
        ablations = ('lrn', 'dropout', 'relu', 'two_towers', 'lrm', 'lrn,lrn', 'relu,lrn', '')
        arguments.append(f'--ablate={rng.choice(ablations)}')
    if rng.random() < 0.1:
        arguments.append(f'--skip_bad={rng.choice(["0", "5", "-1", "x", "", "9" * 30])}')
    if rng.random() < 0.1:
        file = rng.choice([place / 'flags', place / 'odd flags', place / 'no flags', '/', ''])
        arguments.append(f'--flagfile={file}')
    if rng.random() < 0.1:
        name = rng.choice(['', 'model', 'seed', 'no', 'model.fc6.units'])
        arguments.append(f'--settings={name}')
        wrong = []
    rng.shuffle(arguments)
    return arguments, wrong


def _run(rng, place):
    names = [name for name in catalogue() if not name.startswith(ONLY_SHOWN)]
    settings, wrong = _settings(rng, place, [n for n in names if n != 'pretrained.layers'], 2)
    workdir = _path(rng, place) if rng.random() < 0.3 else str(place / f'new {rng.random()}')
    return [*RUN, *settings, f'--workdir={workdir}'], wrong


def _prepare(rng, place):
    choices = {
        'tars': lambda: _path(rng, place),
        'data_dir': lambda: _path(rng, place, 'tfds', 'empty'),
        'size': lambda: rng.choice(
            ['256', 'original', '8', '7', '2000', '\u00b2', '\uff11', '', '-1', 'x']
        ),
        'storage': lambda: rng.choice(['jpeg', 'raw', 'png', '']),
        'quality': lambda: rng.choice(['90', '0', '101', 'x', '']),
        'filter': lambda: rng.choice(['bicubic', 'lanczos', 'cubic', '']),
        'workers': lambda: rng.choice(['0', '1', '-1', '1000000', 'x']),
        'sample': lambda: rng.choice(['0', '10', '-1', 'x', '9' * 30]),
        'name': lambda: rng.choice(
            ['digits', 'digits', 'digits:9.9.9', 'digits/x', 'no_such', '', '../x', 'a\nb', 'é']
        ),
    }
    names = rng.sample(list(choices), rng.randint(0, 4))
    arguments = [f'--{name}={choices[name]()}' for name in names]
    if rng.random() < 0.4:
        arguments.append('--check')
    return arguments, []


def _evaluate(rng, place):
    workdirs = [_path(rng, place, 'run') for _ in range(rng.choice([0, 1, 1, 1, 2]))]
    arguments = [f'--workdir={",".join(workdirs)}'] if workdirs else []
    choices = {
        'split': lambda: rng.choice(['train[:30]', 'test[:20]', 'test[5:2]', 'no', '', 'test[']),
        'data_dir': lambda: _path(rng, place, 'tfds'),
        'folder': lambda: _path(rng, place),
        'out': lambda: _path(rng, place),
        'tune_weights': lambda: rng.choice(['true', 'false', 'x']),
    }
    for name in rng.sample(list(choices), rng.choice([0, 0, 1, 1, 2])):
        arguments.append(f'--{name}={choices[name]()}')
    return arguments, []


def _predict(rng, place):
    pictures = [_path(rng, place, 'pictures', 'picture.png') for _ in range(rng.choice([0, 1, 2]))]
    workdirs = [_path(rng, place, 'run') for _ in range(rng.choice([0, 1, 1, 1, 1, 2]))]
    pictures = [x for x in pictures if x != '/proc']  # it has links to all files of the machine
    arguments = [*pictures, *(f'--workdir={workdir}' for workdir in workdirs)]
    choices = {
        'top': lambda: rng.choice(['1', '10', '11', '0', '-1', 'x', '9' * 30, '\uff12']),
        'views': lambda: rng.choice(['1', '5', '10', '2', '', '\uff11']),
        'format': lambda: rng.choice(['table', 'csv', 'json', 'xml', '']),
        'checkpoint': lambda: rng.choice(['newest', 'best', '7', '-1', 'x', '']),
        'out': lambda: _path(rng, place) if rng.random() < 0.5 else str(place / 'answers.csv'),
        'names': lambda: _path(rng, place, 'words.txt'),
    }
    for name in rng.sample(list(choices), rng.choice([0, 0, 1, 1, 2, 3])):
        arguments.append(f'--{name}={choices[name]()}')
    rng.shuffle(arguments)
    wrong = [x for x in arguments if x in ('--top=11', '--top=0', '--views=2', '--format=xml')]
    return arguments, wrong


def _export(rng, place):
    arguments = [f'--workdir={_path(rng, place, "run")}'] if rng.random() < 0.95 else []
    formats = ['safetensors', 'torch', 'onnx', 'stablehlo', 'safetensors,torch', '', ',', 'x']
    choices = {
        'format': lambda: rng.choice(formats),
        'out': lambda: rng.choice([_path(rng, place), str(place / f'new {rng.random()}')]),
        'checkpoint': lambda: rng.choice(['newest', 'best', '-1', 'x', '', '9' * 30, '\uff12']),
        'preprocessing': lambda: rng.choice(['true', 'false', 'x']),
    }
    for name in rng.sample(list(choices), rng.choice([0, 1, 1, 2, 3])):
        arguments.append(f'--{name}={choices[name]()}')
    return arguments, []


def _report(rng, place):
    arguments = [f'--workdir={_path(rng, place, "run")}'] if rng.random() < 0.95 else []
    choices = {
        'out': lambda: _path(rng, place),
        'images': lambda: rng.choice(['1', '3', '0', '-1', 'x', '9' * 30, '\uff12']),
        'relu': lambda: _path(rng, place, 'run'),
        'tanh': lambda: _path(rng, place, 'run'),
        'ablations': lambda: _path(rng, place),
        'with': lambda: ','.join(_path(rng, place, 'run') for _ in range(rng.choice([0, 1, 2, 2]))),
    }
    for name in rng.sample(list(choices), rng.choice([0, 1, 1, 2, 3])):
        arguments.append(f'--{name}={choices[name]()}')
    return arguments, []


def _ablations(rng, place):
    """It refuses something, so that it does not train for long."""
    settings, _ = _settings(rng, place, list(catalogue()), 2)
    refused = rng.choice(
        ['--only=lrm', '--only=', '--only=mirror', '--seeds=0', '--seeds=x', '--seeds=1001']
        + ['--workdir=/proc/x', '--workdir=/etc/passwd', '--workdir=', '--workdir=gs://x']
        + ['--config.seed=-1', '--config.model.conv1.maps=0', '--config=no', '--nothing']
    )
    arguments = [*_config(rng, place), *settings, refused]
    rng.shuffle(arguments)
    return [*arguments, refused], [refused]


def _sweep(rng, place):
    """It refuses something, so that it does not train."""
    settings, _ = _settings(rng, place, list(catalogue()), 2)
    refused = rng.choice(
        ['seed=0,1', 'lr=1,2', 'optimizer.momentum=0.9', 'optimizer.momentum=0.9,2', 'x', '=', '']
        + ['model.conv3.then=relu,tanh', 'model.conv3.then=(relu,(tanh)', 'optimizer.epochs=1,,2']
        + ['model.conv3=1,2', 'log.every_steps=1,2', 'optimizer.epochs=1,1.0']
    )
    return [*_config(rng, place), *settings, f'--values={refused}'], [f'--values={refused}']


def _list(rng, _):
    return [rng.choice(['', '--help', '-h', 'man', 'é', 'a\nb', '\x1b[31m', '--version'])], []


_PROGRAMS = {
    'dry_run': _dry_run,
    'run': _run,
    'prepare': _prepare,
    'evaluate': _evaluate,
    'predict': _predict,
    'export': _export,
    'report': _report,
    'ablations': _ablations,
    'sweep': _sweep,
    'list': _list,
}
_STRAY = ('x', '--', '-', '---x', '--help', '-h', '--helpfull', '--=', '=', '', '--config.', '-1')
_ENVIRONMENT = {
    'HOME': (None, '', '/proc/x', '/nowhere'),
    'TFDS_DATA_DIR': (None, '', '/proc/x', 'gs://x', '\udcff'),
    'JAX_PLATFORMS': (None, '', 'cuda', 'tpu', 'nothing', 'cpu,cuda'),
    'JAX_ENABLE_X64': ('1', '0', 'x'),
    'JAX_NUM_CPU_DEVICES': ('1', '4', '0', 'x', ''),
    'JAX_COMPILATION_CACHE_DIR': ('', '/proc/x', '/etc/passwd', 'gs://x'),
    'XDG_CACHE_HOME': ('', '/proc/x', 'relative', '\udcff'),
    'LANG': (None, 'C', 'de_DE.ISO-8859-1', 'nothing'),
    'LC_ALL': ('C', 'POSIX', 'nothing'),
    'PYTHONIOENCODING': ('ascii', 'latin-1'),
    'COLUMNS': ('1', '0', '-5', 'x', '99999'),
    'TERM': (None, 'dumb', ''),
    'TMPDIR': ('/nowhere', ''),
    'NO_COLOR': ('1',),
    'PYTHONHASHSEED': ('0', '1'),
    'PYTHONUNBUFFERED': ('1',),
}


def main() -> int:
    """Runs many command lines, prints those that fail, and returns 1 if any does."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=500, help='number of command lines')
    parser.add_argument('--seed', default='0', help='of the command lines')
    parser.add_argument('--first', type=int, default=0, help='number of the first')
    parser.add_argument('--jobs', type=int, default=2, help='how many run at once')
    parser.add_argument('--seconds', type=float, default=SECONDS, help='limit for each')
    parser.add_argument('--show', action='store_true', help='print the commands, run none')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='commands-') as folder:
        place = Path(folder) / 'place'
        place.mkdir()
        if not options.show:
            _make_run(Path(folder))
            furnish(place, Path(folder) / 'run', Path(folder) / 'tfds')

        def judge(number):
            line = generate(f'{options.seed}-{number}', place)
            return number, line, [] if options.show else check(line, place, options.seconds)

        numbers, failed = range(options.first, options.first + options.count), 0
        start = time.monotonic()
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, line, faults in pool.map(judge, numbers):
                failed += bool(faults)
                if faults or options.show:
                    text = '\n    '.join([f'{number}: {line.text()}', *faults])
                    print(
                        ascii(text.replace(str(place), '$P'))[1:-1].replace('\\n    ', '\n    '),
                        flush=True,
                    )
        print(f'{failed} of {len(numbers)} failed, {time.monotonic() - start:.0f} s')
    return min(1, failed)


def _make_run(folder):
    command = [sys.executable, '-m', 'alexnet_jax.main', *RUN, f'--workdir={folder}/run']
    command.append(f'--config.dataset.data_dir={folder}/tfds')
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == '__main__':
    sys.exit(main())
