"""Which device holds which image, and the tables by which the images of a batch are exchanged.

Image i is row i // D of device i % D, so that images which follow one another lie on different
devices: a batch in the order of the data set is taken from all of them evenly. The images of a
batch are needed by the replicas, each of which has its rows of the batch on all of its devices.
The exchange has two parts. First each device receives an equal part of its replica's rows from the
devices that hold them (all-to-all); then the devices of a replica exchange these parts
(all-gather), along the axis of the mesh whose devices are neighbours.

The number of images that one device sends to another differs from batch to batch, and a compiled
program sends the same number each time. It is a number that few batches exceed; for those there is
a second program, which can send any batch.
"""

import math
from typing import NamedTuple

import numpy as np

# Standard deviations by which the number of images from one device to another may exceed its mean
# in the usual program. The number is nearly a Poisson variable.
_DEVIATIONS = 4.0


class Route(NamedTuple):
    """The tables for one batch, each with a leading axis of the devices.

    Attributes:
      send: (D, D, C) int32: for the device that sends and the one that receives, the rows of the
        sender's shard. Where fewer than C are needed, row 0 fills up.
      receive: (D, R) int32: for each row that a device receives, its place among the D * C rows
        that arrive, by the sender.
    """

    send: np.ndarray
    receive: np.ndarray


class Router:
    """Computes the tables for batches of one size.

    Args:
      replicas: the devices along the data axis.
      towers: the devices along the tower axis, which all need the same images.
      batch_size: images in a batch; a multiple of `replicas`.

    Attributes:
      devices: the number of devices, D. They are numbered replica by replica.
      rows_per_replica: the rows of a batch that one replica needs.
      rows: the rows that each device receives in the first part of the exchange, R.
      capacities: the numbers of images, in rising order, that programs send from one device to
        another: the usual one, and one that suffices for any batch.
    """

    def __init__(self, replicas: int, towers: int, batch_size: int) -> None:
        self.devices, self._towers = replicas * towers, towers
        self.rows_per_replica = batch_size // replicas
        self.rows = -(-self.rows_per_replica // towers)
        mean = self.rows / self.devices
        usual = math.ceil(mean + _DEVIATIONS * math.sqrt(mean))
        self.capacities = tuple(sorted({min(usual, self.rows), self.rows}))

    def place(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the devices that hold images, and the rows of their shards."""
        return indices % self.devices, indices // self.devices

    def route(self, indices: np.ndarray) -> Route:
        """Returns the tables for a batch.

        Args:
          indices: (B,) integers, the images of the batch.
        """
        number, (sender, row) = self.devices, self.place(indices)
        replica, place = np.divmod(np.arange(len(indices)), self.rows_per_replica)
        tower, place = np.divmod(place, self.rows)
        receiver = replica * self._towers + tower
        pair = sender * number + receiver
        order, counts = np.argsort(pair, kind='stable'), np.bincount(pair, minlength=number**2)
        first = np.cumsum(counts) - counts
        turn = np.empty_like(order)  # among the images with the same sender and receiver
        turn[order] = np.arange(len(order)) - first[pair[order]]
        capacity = next(n for n in self.capacities if n >= counts.max())
        send = np.zeros((number, number, capacity), np.int32)
        send[sender, receiver, turn] = row
        receive = np.zeros((number, self.rows), np.int32)
        receive[receiver, place] = sender * capacity + turn
        return Route(send, receive)

    def bytes_received(self, image_bytes: int, capacity: int) -> int:
        """Returns the bytes of images that reach each device in one step, from other devices.

        Args:
          image_bytes: the bytes of an image.
          capacity: one of `capacities`.
        """
        from_all, from_replica = self.devices - 1, self._towers - 1
        return image_bytes * (from_all * capacity + from_replica * self.rows)
