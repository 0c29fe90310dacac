"""The place of a process in its group: its number, the number of all, and the coordinator."""

from typing import NamedTuple


class Launch(NamedTuple):
    """The place of this process among those that train one net together.

    Attributes:
      count: the number of processes, at least 2.
      index: the number of this process, from 0.
      coordinator: 'HOST:PORT' at which process 0 answers the others.
      local_devices: the numbers of the accelerators of this machine that this process uses; None
        for all that it can see.
      source: where these values come from, in a few words, such as 'a Slurm step'.
    """

    count: int
    index: int
    coordinator: str
    local_devices: tuple[int, ...] | None
    source: str
