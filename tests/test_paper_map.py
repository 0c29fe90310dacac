"""The files that docs/paper_map.md names exist; it names all programs, and README all packages."""

import re
from pathlib import Path

import nets

TEXT = (nets.ROOT / 'docs' / 'paper_map.md').read_text()
CELLS = [cell for line in TEXT.splitlines() if line.startswith('|') for cell in line.split('|')]


def files_of(cell):
    """Yields the files of a cell; a name without a folder is in the folder of the one before it."""
    folder = Path()
    for name in re.findall(r'`([\w./]+\.py)`', cell):
        folder = Path(name).parent if '/' in name else folder
        yield folder / Path(name).name


def test_files_exist():
    folders = [nets.ROOT / part for part in ('alexnet_jax', 'tests', '.')]
    missing = [
        str(file)
        for cell in CELLS
        for file in files_of(cell)
        if not any((folder / file).is_file() for folder in folders)
    ]
    assert missing == []


def test_programs_are_named():
    programs = {path.name for path in (nets.ROOT / 'alexnet_jax').glob('*.py')} - {'__init__.py'}
    named = {file.name for cell in CELLS for file in files_of(cell) if len(file.parts) == 1}
    assert programs - named == set()


def test_packages_are_in_the_tree_of_the_readme():
    folders = {path.parent.name for path in (nets.ROOT / 'alexnet_jax').glob('*/__init__.py')}
    readme = (nets.ROOT / 'README.md').read_text()
    assert {name for name in folders - {'configs'} if f'\n  {name}/ ' not in readme} == set()
