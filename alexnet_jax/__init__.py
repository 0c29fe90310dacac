"""AlexNet as it was in 2012: two towers on two devices, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

from alexnet_jax.runtime import VERSION

if TYPE_CHECKING:
    from alexnet_jax.config.loading import load_config as load_config
    from alexnet_jax.evaluation.classifier import load as load
    from alexnet_jax.model.net import Net as Net

__version__ = VERSION
__all__ = ['Net', 'load', 'load_config']

# Where the public names are defined. They are imported on first use: JAX takes seconds.
_MODULES = {
    'Net': 'alexnet_jax.model.net',
    'load': 'alexnet_jax.evaluation.classifier',
    'load_config': 'alexnet_jax.config.loading',
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names of the module, those that are not imported yet included."""
    return sorted({*globals(), *__all__})
