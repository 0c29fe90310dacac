"""A model of the training step on many GPUs: the bytes that they exchange, memory and time.

The mesh has `data` x `tower` devices. The towers of a pair lie in one host, and the replicas are
spread over the hosts. Of an array of S bytes, in a group of n devices on h hosts with g = n / h on
each, a device sends:

    all-gather, reduce-scatter    (g-1)/g S  within its host,  (h-1)/h S/g  to other hosts
    all-reduce                    twice as many of each

In one host these are (n-1)/n S and 2 (n-1)/n S, as in a ring. Over several hosts, each GPU
exchanges its part with the GPUs of the same number in the other hosts, through its own network
card. What is sent within hosts and what is sent between them are assumed to follow each other.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import roofline

from alexnet_jax.config import schema
from alexnet_jax.model.layer_table import CHANNELS, Row, layer_table, parameter_count

FLOAT32 = 4  # bytes of a parameter, a gradient, a velocity or a logit


class Scheme(NamedTuple):
    """The devices over which the layers of a net are spread.

    Attributes:
      name: for people.
      tower: devices that the towers of a replica are spread over.
      spreads_dense: whether the dense layers are spread over all devices ("One weird trick").
    """

    name: str
    tower: int
    spreads_dense: bool

    def suits(self, gpus: int, batch: int) -> bool:
        """Checks whether so many GPUs form this mesh, and divide this batch evenly."""
        return gpus % self.tower == 0 and batch % (gpus // self.tower) == 0


REPLICAS = Scheme('replicas', 1, False)
TOWERS = Scheme('towers', 2, False)
TRICK = Scheme('weird trick', 1, True)
TOWERS_AND_TRICK = Scheme('towers, weird trick', 2, True)
SCHEMES = (REPLICAS, TOWERS, TRICK, TOWERS_AND_TRICK)


class Traffic(NamedTuple):
    """Bytes that a device sends within its host, and to other hosts."""

    within: float
    between: float


class Exchange(NamedTuple):
    """A collective operation of a step.

    Attributes:
      layer: the layer that it belongs to, or the group of layers whose gradients it sums.
      operation: 'all-gather', 'reduce-scatter' or 'all-reduce'.
      size: bytes of the complete array, which is the result of an all-gather or an all-reduce.
      devices: the number of devices in a group.
      hosts: the number of hosts that a group lies on.
      is_gradient: whether it sums gradients of parameters.
    """

    layer: str
    operation: str
    size: float
    devices: int
    hosts: int
    is_gradient: bool = False

    def traffic(self) -> Traffic:
        """Returns the bytes that each device sends."""
        times, local = 2 if self.operation == 'all-reduce' else 1, self.devices / self.hosts
        within = times * (local - 1) / local * self.size
        return Traffic(within, times * (self.hosts - 1) / self.hosts * self.size / local)


@dataclasses.dataclass(frozen=True)
class Machine:
    """The assumptions of the model about GPUs and their links.

    Attributes:
      per_host: GPUs in a host.
      within, between: bytes per second that a GPU sends within its host, and to other hosts.
      latency, latency_between: seconds of each collective operation, and those that each doubling
        of the hosts adds.
      hidden: the fraction of the exchange of gradients that takes place during the backward pass.
      peaks: the rates of a large product and of a copy.
    """

    per_host: int
    within: float
    between: float
    latency: float
    latency_between: float
    hidden: float
    peaks: roofline.Peaks

    def seconds(self, exchange: Exchange, *, latencies: bool = True) -> float:
        """Returns the time that an exchange takes, with or without the latencies."""
        traffic, doublings = exchange.traffic(), (exchange.hosts - 1).bit_length()
        transfer = traffic.within / self.within + traffic.between / self.between
        return transfer + latencies * (self.latency + doublings * self.latency_between)


class Line(NamedTuple):
    """A straight line over the number of images."""

    constant: float
    per_image: float

    def __call__(self, images: float) -> float:
        """Returns the value for so many images."""
        return self.constant + self.per_image * images


def fit(points: Mapping[int, float], constant: float | None = None) -> Line:
    """Returns the line with the least sum of squared errors.

    Args:
      points: values by numbers of images, at least one.
      constant: the constant of the line where there is one point alone.

    Raises:
      ValueError: there is one point and no constant.
    """
    images, values = np.array([*points], float), np.array([*points.values()])
    if len(points) > 1:
        per_image, constant = np.polyfit(images, values, 1)
        return Line(float(constant), float(per_image))
    if constant is None:
        raise ValueError('one point does not determine a line: state its constant')
    return Line(constant, float((values[0] - constant) / images[0]))


class Parameters(NamedTuple):
    """The number of parameters on a device: of the convolutional and of the dense layers."""

    convolutional: float
    dense: float


def count_parameters(config: schema.Config, scheme: Scheme, gpus: int) -> Parameters:
    """Counts the parameters on each device; the bias of fc8 is on all of them."""
    names, bias = config.model.convolutions(), config.dataset.classes
    convolutional = sum(row.parameters for row in layer_table(config) if row.name in names)
    dense = parameter_count(config) - convolutional - bias
    spread = gpus if scheme.spreads_dense else scheme.tower
    return Parameters(convolutional / scheme.tower, dense / spread + bias)


def list_exchanges(
    config: schema.Config, scheme: Scheme, gpus: int, batch: int, per_host: int
) -> list[Exchange]:
    """Lists the collective operations of a step, without those of a few bytes.

    Args:
      config: the settings of the net.
      scheme: how it is spread.
      gpus: the number of all devices.
      batch: images in a batch of all devices.
      per_host: devices in a host.
    """
    data, hosts = gpus // scheme.tower, -(-gpus // per_host)
    exchanges: list[Exchange] = []
    for row in layer_table(config):
        if not scheme.spreads_dense or row.name in config.model.convolutions():
            if row.crossing and scheme.tower > 1:
                exchanges += _between_towers(config, row, batch // data, scheme.tower)
        elif row.name == 'fc8':
            exchanges += _of_partial_products(config, scheme, gpus, batch, hosts)
        else:
            size = _activation_bytes(config) * _inputs(config, row) * batch
            exchanges += _gathered(row.name, size, gpus, hosts)
    parameters = count_parameters(config, scheme, gpus)
    dense = config.dataset.classes if scheme.spreads_dense else parameters.dense  # the bias of fc8
    numbers = {'convolutional': parameters.convolutional, 'dense': dense}
    exchanges += [
        Exchange(name, 'all-reduce', FLOAT32 * number, data, min(hosts, data), True)
        for name, number in numbers.items()
    ]
    return [exchange for exchange in exchanges if exchange.devices > 1]


def _activation_bytes(config: schema.Config) -> int:
    return jnp.dtype(config.model.dtype).itemsize


def _inputs(config: schema.Config, row: Row) -> int:
    """Returns the values of an image that a dense layer of all towers reads."""
    reads_all = config.model.dense()[row.name].reads == 'all'
    return row.reads * (1 if reads_all else config.model.towers)


def _between_towers(config: schema.Config, row: Row, images: int, devices: int) -> list[Exchange]:
    """Lists the exchanges of a layer within a replica, forward and backward."""
    if row.name == 'fc8':  # a sum of partial products, whose derivative needs no exchange
        return [Exchange(row.name, 'all-reduce', FLOAT32 * row.crossing * images, devices, 1)]
    values = row.crossing * config.model.towers
    return _gathered(row.name, _activation_bytes(config) * values * images, devices, 1)


def _gathered(layer: str, size: int, devices: int, hosts: int) -> list[Exchange]:
    """Lists the all-gather of activations, and the sum of their gradients, which is scattered."""
    operations = ('all-gather', 'reduce-scatter')
    return [Exchange(layer, operation, size, devices, hosts) for operation in operations]


def _of_partial_products(
    config: schema.Config, scheme: Scheme, gpus: int, batch: int, hosts: int
) -> list[Exchange]:
    """Lists the exchanges of fc8 where every device has the products of a part of its inputs.

    They are summed over the replicas and scattered, each keeping those of its images, and then
    summed over the towers. Backward, the gradients of all images are gathered.
    """
    data, size = gpus // scheme.tower, FLOAT32 * config.dataset.classes * batch
    return [
        *_gathered('fc8', size, data, min(hosts, data)),
        Exchange('fc8', 'all-reduce', size / data, scheme.tower, 1),
    ]


class Estimate(NamedTuple):
    """The results of the model for a step.

    Attributes:
      within, between: bytes that each device sends within its host, and to other hosts.
      memory: bytes on each device.
      bound: images per second if products and copies are as fast as the largest ones, and all
        exchanges take place during them, at the rates of the links.
      rate: images per second by the measured step of one GPU and the time of the exchanges.
      step: seconds of a step at that rate.
      exposed: those seconds of a step in which a GPU waits for exchanges.
    """

    within: float
    between: float
    memory: float
    bound: float
    rate: float
    step: float
    exposed: float


class Saving(NamedTuple):
    """The bytes of memory and the seconds of a step that a device saves."""

    memory: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Model:
    """Estimates steps of one net on one kind of machine.

    Attributes:
      config: the settings of the net.
      machine: the rates.
      step_time: seconds of a step of one GPU alone, over the images of its batch.
      temporaries: for each `Scheme.tower`, bytes of the temporaries of a step on a device, over the
        images of a replica.
    """

    config: schema.Config
    machine: Machine
    step_time: Line
    temporaries: Mapping[int, Line]

    def estimate(self, scheme: Scheme, gpus: int, batch: int) -> Estimate:
        """Estimates a step on so many GPUs with so many images in all."""
        machine, images = self.machine, batch / gpus
        exchanges = list_exchanges(self.config, scheme, gpus, batch, machine.per_host)
        traffic = [exchange.traffic() for exchange in exchanges]
        gradients = sum(machine.seconds(x) for x in exchanges if x.is_gradient)
        others = sum(machine.seconds(x) for x in exchanges if not x.is_gradient)
        backward = self._backward_fraction() * self.step_time.per_image * images
        exposed = others + gradients - min(machine.hidden * gradients, backward)
        own = sum(count_parameters(self.config, scheme, gpus)) / parameter_count(self.config)
        step = self._seconds_alone(own, images) + exposed
        links = sum(machine.seconds(x, latencies=False) for x in exchanges)
        return Estimate(
            within=sum(x.within for x in traffic),
            between=sum(x.between for x in traffic),
            memory=self._memory(scheme, gpus, batch, exchanges),
            bound=batch / max(self._least_seconds(own, images), links),
            rate=batch / step,
            step=step,
            exposed=exposed,
        )

    def sharded_update(self, scheme: Scheme, gpus: int) -> Saving:
        """Estimates what is saved if the replicas divide velocities and updates among them (ZeRO).

        The sum of the gradients is then scattered, each replica updates its part, and the new
        parameters are gathered: as many bytes are exchanged as by the all-reduce.
        """
        parameters, data = count_parameters(self.config, scheme, gpus), gpus // scheme.tower
        replicated = parameters.convolutional + (0 if scheme.spreads_dense else parameters.dense)
        elsewhere = replicated * (data - 1) / data
        step, gradient = (
            roofline.counted_bytes(self.config, what)[1] for what in ('step', 'gradient')
        )
        of_parameter = (step - gradient) / parameter_count(self.config)
        seconds = of_parameter * elsewhere / self.machine.peaks.bandwidth
        return Saving(FLOAT32 * elsewhere, seconds)

    def _seconds_alone(self, own: float, images: float) -> float:
        """Returns the seconds of a step without its exchanges.

        What each image adds is divided evenly among the devices. Of the constant part, the passes
        over the parameters last in proportion to the parameters that a device has; the rest, such
        as launches, does not change.

        Args:
          own: the fraction of all parameters that a device has.
          images: images of the batch for each device.
        """
        passes = min(self._seconds_of_parameters(), self.step_time.constant)
        return self.step_time(images) - (1 - own) * passes

    def _least_seconds(self, own: float, images: float) -> float:
        passes = self._seconds_of_parameters()
        of_image = roofline.bound(self.config, 'step', 1, self.machine.peaks) - passes
        return of_image * images + own * passes

    def _seconds_of_parameters(self) -> float:
        """Returns the seconds of all passes over all parameters in a step."""
        return roofline.counted_bytes(self.config, 'step')[1] / self.machine.peaks.bandwidth

    def _backward_fraction(self) -> float:
        """Returns the fraction of a step's operations that belong to the backward pass."""
        forward, step = (
            roofline.operations_per_image(self.config, what) for what in ('forward', 'step')
        )
        return 1 - forward / step

    def _memory(self, scheme: Scheme, gpus: int, batch: int, exchanges: list[Exchange]) -> float:
        """Returns the bytes on a device: parameters, velocities, images and temporaries."""
        images = batch * scheme.tower / gpus
        size = 2 * FLOAT32 * sum(count_parameters(self.config, scheme, gpus))
        size += images * image_bytes(self.config) + self.temporaries[scheme.tower](images)
        if scheme.spreads_dense:  # what is gathered and scattered for the dense layers
            size += sum(x.size for x in exchanges if x.layer.startswith('fc'))
        return size


def image_bytes(config: schema.Config) -> int:
    """Returns the bytes of a prepared image, RGB."""
    return config.dataset.image_size**2 * CHANNELS


def break_even(config: schema.Config, gpus: int, tower: int, per_host: int) -> float:
    """Returns the batch at which both forms of the dense layers exchange the same bytes.

    With smaller batches, fewer bytes are exchanged if the dense layers are spread over all devices.
    """
    schemes = [Scheme('', tower, spreads) for spreads in (False, True)]
    batches = (gpus, 2 * gpus)
    small, large = (
        [
            sum(sum(x.traffic()) for x in list_exchanges(config, scheme, gpus, batch, per_host))
            for scheme in schemes
        ]
        for batch in batches
    )
    saved, saved_of_twice = small[0] - small[1], large[0] - large[1]
    return gpus + gpus * saved / (saved - saved_of_twice)
