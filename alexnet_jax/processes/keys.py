"""The key-value store of a group: keys that all processes can set and read.

It is that of JAX's coordination service, which runs in process 0 and by which JAX itself connects
the processes. It needs no device: a thread can use it while the devices wait for a collective. The
client raises JAX's JaxRuntimeError, a RuntimeError, so that this module does not import JAX.
"""

import json
from typing import Any


class Unreachable(Exception):
    """The coordination service does not answer."""


class Keys:
    """The keys of a group, with values that are plain enough for JSON.

    Args:
      client: JAX's client of the coordination service.

    Raises:
      Unreachable: from every method, where the service does not answer.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def set(self, key: str, value: Any, replace: bool = False) -> bool:
        """Stores a value.

        Args:
          key: the key.
          value: its value.
          replace: whether an earlier value is replaced.

        Returns:
          True if the value is stored, False if the key has a value already.
        """
        try:
            self._client.key_value_set(key, json.dumps(value), replace)
        except RuntimeError as error:
            if 'ALREADY_EXISTS' in str(error):
                return False
            raise Unreachable(str(error)) from error
        return True

    def read(self, folder: str) -> dict[str, Any]:
        """Returns the values of all keys that begin with `folder`, a path that ends with a slash.

        Returns:
          The values, by the rest of their keys after `folder`; {} for none.
        """
        try:
            pairs = self._client.key_value_dir_get(folder)
        except RuntimeError as error:
            raise Unreachable(str(error)) from error
        return {key[key.index(folder) + len(folder) :]: json.loads(text) for key, text in pairs}

    def wait(self, key: str, seconds: float) -> Any:
        """Waits until a key has a value, and returns it.

        Raises:
          TimeoutError: it has none after that time.
        """
        try:
            return json.loads(self._client.blocking_key_value_get(key, round(1000 * seconds)))
        except RuntimeError as error:
            if 'DEADLINE_EXCEEDED' in str(error):
                raise TimeoutError(key) from error
            raise Unreachable(str(error)) from error

    def meet(self, name: str, seconds: float) -> None:
        """Waits at a barrier until all processes have called this with the same name.

        Raises:
          TimeoutError: one of them has not called it within that time.
        """
        try:
            self._client.wait_at_barrier(name, round(1000 * seconds))
        except RuntimeError as error:
            if 'DEADLINE_EXCEEDED' in str(error):
                raise TimeoutError(name) from error
            raise Unreachable(str(error)) from error

    def delete(self, folder: str) -> None:
        """Deletes a key, or all keys below a folder, a path that ends with a slash."""
        try:
            self._client.key_value_delete(folder)
        except RuntimeError as error:
            raise Unreachable(str(error)) from error
