"""Measurements of speed; each program runs as `python benchmarks/NAME.py` or as a module."""

import sys
from pathlib import Path

# The programs import one another by the names of their files.
sys.path.insert(0, str(Path(__file__).parent))
