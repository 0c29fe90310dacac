"""What the tests of the launch scripts share."""

import pytest

from launching import Launcher


@pytest.fixture
def launcher(tmp_path):
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()
