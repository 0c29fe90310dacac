"""AlexNet as it was in 2012: two towers on two devices, in JAX and Flax."""

__version__ = '0.1.0'
