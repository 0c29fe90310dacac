"""The keys of a group, in memory."""

import threading
import time

from alexnet_jax.processes.keys import Unreachable


class Keys:
    """Keys in memory, for threads that play processes.

    Args:
      count: the number of processes.
      failing: chooses the calls that fail, some of them after they have had their effect; None for
        none.
    """

    def __init__(self, count=2, failing=None):
        self._values, self._lock, self._failing = {}, threading.Lock(), failing
        self._count, self._barriers = count, {}

    @property
    def names(self):
        return set(self._values)

    def _fail(self):
        if self._failing is not None and self._failing.random() < 0.1:
            raise Unreachable('a test')

    def set(self, key, value):
        self._fail()
        with self._lock:
            is_new = key not in self._values
            self._values.setdefault(key, value)
        self._fail()
        return is_new

    def read(self, folder):
        self._fail()
        with self._lock:
            return {k[len(folder) :]: v for k, v in self._values.items() if k.startswith(folder)}

    def wait(self, key, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            time.sleep(0.001)
        raise TimeoutError(key)

    def meet(self, name, seconds):
        with self._lock:
            barrier = self._barriers.setdefault(name, threading.Barrier(self._count))
        try:
            barrier.wait(seconds)
        except threading.BrokenBarrierError:
            raise TimeoutError(name) from None

    def delete(self, key):
        self._fail()
        with self._lock:
            folder = f'{key.rstrip("/")}/'
            self._values = {
                k: v for k, v in self._values.items() if k != key and not k.startswith(folder)
            }
