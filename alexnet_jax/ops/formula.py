"""The constants of local response normalization (§3.3)."""

from typing import NamedTuple


class Formula(NamedTuple):
    """The constants of §3.3, and whether the operation normalizes max(x, 0) in place of x.

    Attributes:
      size: n, the number of adjacent maps in a window.
      k, alpha, beta: the constants; `alpha` multiplies the sum of squares.
      rectify: whether a ReLU comes first.
    """

    size: int
    k: float
    alpha: float
    beta: float
    rectify: bool

    @property
    def before(self) -> int:
        """The number of maps in a window that precede its own map."""
        return self.size // 2

    @property
    def after(self) -> int:
        """The number of maps in a window that follow its own map."""
        return self.size - 1 - self.before


# The paper's constants after a ReLU, with which kernels are tried before they are used.
PAPER = Formula(5, 2.0, 1e-4, 0.75, rectify=True)

# Pixels across a pool: the mask of the kernel that normalizes and pools has one bit of an int32 for
# each pixel of a window.
LARGEST_WINDOW = 5
