"""The constants of response normalization (§3.3)."""

from typing import NamedTuple


class Formula(NamedTuple):
    """Its constants, and whether it gets max(x, 0) in place of x."""

    size: int
    k: float
    alpha: float
    beta: float
    rectify: bool

    @property
    def before(self) -> int:
        """How many maps of a window are before its own."""
        return self.size // 2

    @property
    def after(self) -> int:
        """How many maps of a window are after its own."""
        return self.size - 1 - self.before


# Pixels across: the kernel's mask has a bit of an int32 for each pixel of a window.
LARGEST_WINDOW = 5
