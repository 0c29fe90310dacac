"""The tests that docs/reliability.md names exist."""

import ast
import functools
import re

import nets

TEXT = (nets.ROOT / 'docs' / 'reliability.md').read_text()


def named_tests():
    """Yields file and name of each test in the document; `::name` alone is of the file before."""
    file = ''
    for reference in re.findall(r'`((?:tests/[\w/]+\.py)?::\w+)(?:\[[^`]*\])?`', TEXT):
        path, _, name = reference.partition('::')
        file = path or file
        yield file, name


def test_each_row_names_a_test():
    faults = TEXT.partition('| fault ')[2]  # after the table of complete runs
    rows = [x for x in faults.splitlines() if x.startswith('| ') and '| test |' not in x]
    assert f'Each of the {len(rows)} rows below' in TEXT
    assert [row for row in rows if not re.search(r'::test_\w+[^|]*\|$', row)] == []


@functools.cache
def functions_in(file):
    path = nets.ROOT / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.parse('')
    return {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}


def test_the_tests_exist():
    assert [
        f'{file}::{name}' for file, name in named_tests() if name not in functions_in(file)
    ] == []
