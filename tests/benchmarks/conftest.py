import sys
from pathlib import Path

import pytest

import nets

# The programs import each other by name, as they do when they are run from their folder.
sys.path.append(str(nets.ROOT / 'benchmarks'))


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items):
    """Marks the slow tests of this folder, which run the programs, as `benchmarks`."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder) and item.get_closest_marker('slow'):
            item.add_marker(pytest.mark.benchmarks)
