"""Keys and values that all processes of a group can read, in JAX's coordination service.

The service runs in process 0. It is the engine that JAX itself starts and stops with, and it needs
no device: a thread can use it while the devices wait for a collective. The client raises JAX's
JaxRuntimeError, a RuntimeError; JAX is not imported here for programs that do not need it.
"""

import json
from typing import Any


class Unreachable(Exception):
    """The coordination service does not answer."""


class Keys:
    """The keys of a run.

    Args:
      client: JAX's client of the coordination service.

    Raises:
      Unreachable: from every method, where the service does not answer.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def set(self, key: str, value: Any, replace: bool = False) -> bool:
        """Stores a value, plain enough for JSON.

        Args:
          key: its name.
          value: the value.
          replace: whether it replaces an earlier one.

        Returns:
          Whether it is stored; False where the key has a value already.
        """
        try:
            self._client.key_value_set(key, json.dumps(value), replace)
        except RuntimeError as error:
            if 'ALREADY_EXISTS' in str(error):
                return False
            raise Unreachable(str(error)) from error
        return True

    def read(self, folder: str) -> dict[str, Any]:
        """Returns the values of all keys that begin with `folder`, a path with a slash at its end.

        Returns:
          The values by the rest of their keys.
        """
        try:
            pairs = self._client.key_value_dir_get(folder)
        except RuntimeError as error:
            raise Unreachable(str(error)) from error
        return {key[key.index(folder) + len(folder) :]: json.loads(text) for key, text in pairs}

    def wait(self, key: str, seconds: float) -> Any:
        """Waits for a key to have a value, and returns it.

        Raises:
          TimeoutError: it has none within that time.
        """
        try:
            return json.loads(self._client.blocking_key_value_get(key, round(1000 * seconds)))
        except RuntimeError as error:
            if 'DEADLINE_EXCEEDED' in str(error):
                raise TimeoutError(key) from error
            raise Unreachable(str(error)) from error

    def meet(self, name: str, seconds: float) -> None:
        """Waits until all processes have called this with the same name.

        Raises:
          TimeoutError: one of them has not within that time.
        """
        try:
            self._client.wait_at_barrier(name, round(1000 * seconds))
        except RuntimeError as error:
            if 'DEADLINE_EXCEEDED' in str(error):
                raise TimeoutError(name) from error
            raise Unreachable(str(error)) from error

    def delete(self, folder: str) -> None:
        """Deletes all keys that begin with `folder`, a path with a slash at its end."""
        try:
            self._client.key_value_delete(folder)
        except RuntimeError as error:
            raise Unreachable(str(error)) from error
