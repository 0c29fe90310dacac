"""Chooses the devices of the mesh: those that hold a replica together, and those that are unused.

The devices of a replica exchange maps several times in each step, so they belong to one process or
to one NVLink domain. Replicas exchange gradients once in each step and may be anywhere. Every
process has a device in the mesh, because all processes take part in every step.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.config.schema import Config
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.user_errors import UserError

Domain = list[list[Any]]  # for each process of an NVLink domain, its devices


class _Shape(NamedTuple):
    """The numbers of devices along the axes of a mesh."""

    tower: int
    data: int


def choose_grid(config: Config, devices: Sequence[Any]) -> np.ndarray:
    """Returns the (data, tower) array of the devices that the settings ask for.

    Args:
      config: the settings of a run.
      devices: at least one device for each process, all of one kind.

    Raises:
      UserError: no mesh of these devices suits the settings.
    """
    if len({process_of(device) for device in devices}) == 1:
        return _grid_of_one_process(config, devices)
    choice = _Choice(config, devices)
    shape = next(choice.shapes(config.mesh.tower, config.mesh.data), None)
    if shape is None:
        raise UserError(f'{choice.problem()}: {choice.remedy()}')
    return choice.grid(shape)


def process_of(device: Any) -> int:
    """Returns the number of the process of a device; 0 for devices that are only described."""
    return getattr(device, 'process_index', 0)


def _grid_of_one_process(config: Config, devices: Sequence[Any]) -> np.ndarray:
    number, towers = len(devices), config.model.towers
    tower = config.mesh.tower or max(n for n in _divisors(towers) if n <= number)
    data = config.mesh.data
    if not data:
        replicas = number // tower if devices[0].platform != 'cpu' else 1
        data = max(n for n in range(1, max(1, replicas) + 1) if _suits(config, n))
    if data * tower > number:
        raise UserError(
            f'{_too_few(_Shape(tower, data), devices)}: lower them, or set both to 0 to fit'
        )
    return np.asarray(devices[: data * tower]).reshape(data, tower)


class _Choice:
    """The meshes that the devices of several processes allow.

    Args:
      config: the settings of a run.
      devices: at least one device for each process.
    """

    def __init__(self, config: Config, devices: Sequence[Any]) -> None:
        self._config, self._devices = config, devices
        self._on_cpu = devices[0].platform == 'cpu'
        self._domains = _domains(devices, self._on_cpu)
        self._processes = sum(map(len, self._domains))

    def shapes(self, tower: int, data: int, *, any_batch: bool = False) -> Iterator[_Shape]:
        """Yields the shapes that give every process a device, the preferred one first.

        Towers are spread over as many devices as possible. On accelerators there are as many
        replicas as possible. On CPUs there are as few as possible, since more CPU devices do not
        add processors; but no tower of a replica is in another process where that can be avoided.

        Args:
          tower: the devices that the towers are spread over; 0 for any number.
          data: the number of replicas; 0 for any.
          any_batch: whether to include shapes that do not divide the batches, or the dense layers.
        """
        for t in [tower] if tower else reversed(_divisors(self._config.model.towers)):
            replicas = sorted(self._replicas(t), reverse=not self._on_cpu)
            if self._on_cpu and all(len(own) >= t for domain in self._domains for own in domain):
                replicas.sort(key=lambda d: d < self._processes)
            for d in replicas:
                if data in (0, d) and (any_batch or _suits(self._config, d)):
                    yield _Shape(t, d)

    def grid(self, shape: _Shape) -> np.ndarray:
        """Returns the (data, tower) array of devices, in which those of a process are adjacent."""
        replicas = _distribute(*self._bounds(shape.tower), shape.data)
        devices = [
            device
            for domain, number in zip(self._domains, replicas, strict=True)
            for device in _select(domain, number, shape.tower)
        ]
        return np.asarray(devices).reshape(shape.data, shape.tower)

    def problem(self) -> str:
        """Returns why no mesh suits the settings."""
        config, processes = self._config, self._processes
        settings = config.mesh
        shapes = list(self.shapes(settings.tower, settings.data, any_batch=True))
        if shapes:
            numbers = list_names([str(n) for n in sorted({shape.data for shape in shapes})], 4)
            updates = config.optimizer.dense_updates
            divided = [f'{name}={size}' for name, size, _ in _batch_sizes(config)]
            if updates > 1:
                divided[0] += f' / optimizer.dense_updates={updates}'
            divided += [f'the {n} units of {name}' for name, n in _divided_units(config).items()]
            both = 'both' if len(divided) == 2 else 'all'
            return (
                f'{" and ".join(divided)} are not {both} divisible '
                f'by a number of replicas that gives each of the {processes} processes a device '
                f'({numbers})'
            )
        shape = _Shape(settings.tower or self._tower_to_explain(), settings.data)
        within = 'the devices of a replica must lie in one process or one NVLink domain'
        replicas = self._replicas(shape.tower)
        if shape.data * shape.tower > len(self._devices):
            return _too_few(shape, self._devices)
        if not replicas:
            return (
                f'mesh.tower={shape.tower} leaves one of the {processes} processes without a '
                f'device, because {within}'
            )
        axes = f'mesh.data={shape.data} x mesh.tower={shape.tower}'
        if shape.data > replicas[-1]:
            return f'{axes} does not fit: {within}, and there is room for {replicas[-1]} replicas'
        return f'{axes} leaves one of the {processes} processes without a device'

    def remedy(self) -> str:
        """Returns the settings of a mesh that fits."""
        shape = next(self.shapes(0, 0), None) or next(self.shapes(0, 0, any_batch=True))
        changes: list[tuple[str, Any]] = [('mesh.tower', shape.tower), ('mesh.data', shape.data)]
        for name, size, parts in _batch_sizes(self._config):
            least = shape.data * parts
            if size % least:
                changes.append((name, max(1, size // least) * least))
        if any(units % shape.data for units in _divided_units(self._config).values()):
            changes.append(('mesh.dense', 'tower'))
        return 'set ' + ' '.join(f'--config.{name}={value}' for name, value in changes)

    def _tower_to_explain(self) -> int:
        """Returns the devices of a replica for a message about mesh.data alone."""
        for tower in reversed(_divisors(self._config.model.towers)):
            replicas = self._replicas(tower)
            if replicas and self._config.mesh.data < replicas[0]:
                return tower
        return 1

    def _bounds(self, tower: int) -> tuple[list[int], list[int]]:
        """Returns the least and the greatest number of replicas in each domain."""
        least = [-(-len(domain) // tower) for domain in self._domains]
        return least, [sum(map(len, domain)) // tower for domain in self._domains]

    def _replicas(self, tower: int) -> range:
        """Returns the numbers of replicas with which every process has a device."""
        least, greatest = self._bounds(tower)
        if any(low > high for low, high in zip(least, greatest, strict=True)):
            return range(0)
        return range(sum(least), sum(greatest) + 1)


def _domains(devices: Sequence[Any], on_cpu: bool) -> list[Domain]:
    """Sorts devices by NVLink domain, process and number."""
    by_process: dict[int, list[Any]] = {}
    for device in devices:
        by_process.setdefault(process_of(device), []).append(device)
    domains: dict[tuple[str, int], Domain] = {}
    for process, own in sorted(by_process.items()):
        slices: list[Any] = [getattr(device, 'slice_index', None) for device in own]
        key = 'process', process
        if on_cpu:  # NVLink connects none of them, so all pairs are alike
            key = 'host', 0
        elif None not in slices:
            key = 'slice', min(slices)
        domains.setdefault(key, []).append(sorted(own, key=lambda device: device.id))
    return [domain for _, domain in sorted(domains.items())]


def _select(domain: Domain, replicas: int, tower: int) -> list[Any]:
    """Returns the devices of some replicas: some of each process, whole replicas if possible."""
    number, limits = replicas * tower, [len(own) for own in domain]
    whole = [limit // tower for limit in limits]
    counts = _distribute([0] * len(domain), whole, min(replicas, sum(whole)))
    counts = _distribute([n * tower for n in counts], limits, number)
    if 0 in counts:
        counts = _distribute([0] * len(domain), limits, number)
    # The processes with whole replicas come first, so that none of their devices is paired with a
    # device of another process.
    pairs = sorted(zip(domain, counts, strict=True), key=lambda pair: pair[1] % tower > 0)
    return [device for own, count in pairs for device in own[:count]]


def _distribute(counts: list[int], limits: list[int], total: int) -> list[int]:
    """Raises the lowest counts, each up to its limit, until their sum is `total`."""
    counts = list(counts)
    for _ in range(total - sum(counts)):
        below = [i for i, limit in enumerate(limits) if counts[i] < limit]
        counts[min(below, key=counts.__getitem__)] += 1
    return counts


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _batch_sizes(config: Config) -> list[tuple[str, int, int]]:
    """Returns the settings of batch sizes, their values, and the sub-batches of each batch."""
    optimizer, evaluation = config.optimizer, config.evaluation
    return [
        ('optimizer.batch_size', optimizer.batch_size, optimizer.dense_updates),
        ('evaluation.batch_size', evaluation.batch_size, 1),
    ]


def _divides_batches(config: Config, replicas: int) -> bool:
    return all(size % (replicas * parts) == 0 for _, size, parts in _batch_sizes(config))


def _divided_units(config: Config) -> dict[str, int]:
    """Returns the units of one tower in the layers whose units the replicas divide, by layer."""
    return config.model.dense_units() if config.mesh.dense == 'all' else {}


def _suits(config: Config, replicas: int) -> bool:
    units = _divided_units(config).values()
    return _divides_batches(config, replicas) and all(n % replicas == 0 for n in units)


def _too_few(shape: _Shape, devices: Sequence[Any]) -> str:
    return (
        f'mesh.data={shape.data} x mesh.tower={shape.tower} needs {shape.data * shape.tower} '
        f'devices and there are {len(devices)} ({devices[0].device_kind})'
    )
