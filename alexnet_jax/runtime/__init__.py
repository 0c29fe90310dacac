"""Errors, signals, paths, printing, files and locks: the parts of every program."""

VERSION = '0.1.0'  # of alexnet_jax; exported files name it
