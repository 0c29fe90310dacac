"""Training images that cannot be read (§2): their number, their names and the advice about them."""

import numpy as np

from alexnet_jax.data.sources import Source
from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError


class UnreadableImages:
    """The training images that could not be read so far by any process, and how many are allowed.

    Args:
      source: the training images.
      allowed: number of images that may be unreadable.
    """

    def __init__(self, source: Source, allowed: int) -> None:
        self._source, self.allowed, self._indices = source, allowed, set[int]()

    @property
    def names(self) -> list[str]:
        """The locations of the images in the source."""
        indices = self._indices | group.current().add_to_set('unreadable', set())
        return [self._source.where(index) for index in sorted(indices)]

    def add(self, indices: np.ndarray) -> None:
        """Adds images by their indices in the source; negative ones are ignored.

        Raises:
          UserError: there are more than are allowed.
        """
        if new := {int(index) for index in indices if index >= 0} - self._indices:
            self._indices |= group.current().add_to_set('unreadable', new)
        if len(self._indices) > self.allowed:
            raise UserError(
                f'{len(self._indices)} training images cannot be read, for example '
                f'{self._source.where(min(self._indices))}, and --skip_bad={self.allowed}: allow '
                f'more, or {_remedy(self._source)}'
            )


def _remedy(source: Source) -> str:
    return getattr(source, 'remedy', 'prepare the data set again')


def unreadable_error(
    source: Source, index: int, reason: Exception | None, training: bool = False
) -> UserError:
    """Returns the error for an image that cannot be read."""
    or_leave_out = ', or leave out up to N such images: --skip_bad=N' if training else ''
    return UserError(f'{source.where(index)} {reason}: {_remedy(source)}{or_leave_out}')
