"""Devices of several processes that are not attached."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that the choice depends on."""

    id: int
    platform: str
    process_index: int

    @property
    def device_kind(self):
        return self.platform

    def __str__(self):
        return f'{self.platform}:{self.id}'


@dataclasses.dataclass(frozen=True)
class DeviceOfSlice(Device):
    """A device that states its NVLink domain."""

    slice_index: int


def group(counts, slices=None, platform='gpu'):
    """Returns the devices of processes.

    Args:
      counts: the number of devices of each process.
      slices: the NVLink domain of each process; None if the devices do not state theirs.
      platform: the kind of the devices.
    """
    processes = [process for process, count in enumerate(counts) for _ in range(count)]
    if slices is None:
        return [Device(i, platform, process) for i, process in enumerate(processes)]
    return [DeviceOfSlice(i, platform, p, slices[p]) for i, p in enumerate(processes)]
