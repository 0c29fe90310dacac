"""The first line of a docstring says what a function does, beginning with a verb."""

import ast

import pytest

import nets

FILES = sorted(
    path
    for folder in ('alexnet_jax', 'configs', 'benchmarks')
    for path in (nets.ROOT / folder).rglob('*.py')
    if 'configs' not in path.relative_to(nets.ROOT / folder).parts
)

# Third person, as Google's style guide allows; Ruff's D401 demands the imperative. A verb that is
# missing here may be added.
VERBS = """
    Accepts Acknowledges Adds Agrees Announces Applies Arranges Asks Begins Binds Calls Casts
    Checks Chooses Closes Collects Compares Compiles Computes Concatenates Connects Converts
    Convolves Copies Counts Creates Crops Decodes Delays Deletes Describes Detects Divides Draws
    Encodes Ends Escapes Estimates Evaluates Excludes Exports Finds Flips Formats Forwards Gathers
    Gives Handles Imports Installs Joins Judges Keeps Leaves Lets Links Lists Loads Locates Locks
    Lowers Makes Maps Marks Measures Merges Moves Multiplies Names Normalizes Numbers Opens Pads
    Parses Places Plots Prepares Prints Publishes Raises Reads Records Refuses Removes Renames
    Replaces Reports Restores Returns Runs Saves Says Scales Sends Separates Sets Shifts Shows
    Silences Sorts Splits Stands Starts States Stops Stores Sums Takes Tells Times Trains Tunes
    Waits Watches Writes Yields
"""


def functions(path):
    """Returns the functions of a file that have a docstring, without properties."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if not any(name.endswith('property') for name in decorators):
                yield node


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(nets.ROOT)))
def test_the_first_line_begins_with_a_verb(path):
    first_words = {
        f'{node.name}, line {node.lineno}': ast.get_docstring(node).split()[0].rstrip(',')
        for node in functions(path)
    }
    assert {name: word for name, word in first_words.items() if word not in VERBS.split()} == {}


def test_there_are_functions_to_check():
    assert sum(1 for path in FILES for _ in functions(path)) > 400
