"""Errors, signals, paths, printing, files and locks: the parts of every program."""
