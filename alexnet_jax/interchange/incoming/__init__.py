"""Weights that come in: files of other programs and of our own exports, and how they are read."""
