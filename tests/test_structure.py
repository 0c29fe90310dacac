"""The structure of the package, read from its source: imports point downward, files stay small."""

import ast
import functools
import tomllib
from pathlib import Path

import pytest

import nets

PACKAGE = nets.ROOT / 'alexnet_jax'
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if 'configs' not in p.relative_to(PACKAGE).parts)
PACKAGES = sorted({path.parent.name for path in MODULES} - {'alexnet_jax'})


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


def name_of(path):
    return '.'.join(path.relative_to(nets.ROOT).with_suffix('').parts).removesuffix('.__init__')


NAMES = {name_of(path) for path in MODULES}


def imports(path):
    """The modules of this package that a file imports, wherever in the file it does."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('alexnet_jax'):
            for alias in node.names:
                dotted = f'{node.module}.{alias.name}'
                yield dotted if dotted in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith('alexnet_jax'))


def package_of(module):
    """The package that a module lies in; '' for the programs at the top."""
    parts = module.split('.')
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else ''


def package_imports():
    graph = {package: set() for package in ['', *PACKAGES]}
    for path in MODULES:
        own = package_of(name_of(path))
        graph[own] |= {package_of(module) for module in imports(path)} - {own}
    return graph


def cycle(graph):
    """The nodes that are left when all without imports are taken away, again and again."""
    graph = {node: set(targets) for node, targets in graph.items()}
    while leaves := [node for node, targets in graph.items() if not targets & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    return sorted(graph)


def test_packages_import_downward_only():
    """There is an order of the packages in which each imports those below it alone."""
    assert cycle(package_imports()) == []


def test_nothing_imports_a_program():
    """The programs and the public functions are the top: no package knows them."""
    importers = [package for package, targets in package_imports().items() if '' in targets]
    assert importers == []


def test_modules_import_without_cycles():
    graph = {name_of(path): set(imports(path)) - {name_of(path)} for path in MODULES}
    assert cycle(graph) == []


def test_an_upward_import_would_be_noticed():
    assert cycle({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}) == ['a', 'b', 'c', 'd']
    assert cycle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []


def test_no_folder_has_more_than_twelve_modules():
    folders = {path.parent for path in MODULES}
    sizes = {folder.name: len(list(folder.glob('*.py'))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > 12} == {}


def test_a_wheel_contains_every_package():
    settings = tomllib.loads((nets.ROOT / 'pyproject.toml').read_text())
    packages = {name_of(path) for path in MODULES if path.name == '__init__.py'}
    assert set(settings['tool']['setuptools']['packages']) == packages | {'alexnet_jax.configs'}


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_a_module_fits_in_the_head(path: Path):
    """At most about 400 lines, and no function of more than 60."""
    assert len(path.read_text().splitlines()) <= 400
    functions = (n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef))
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions}
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
