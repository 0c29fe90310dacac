"""Imports of weights from the files of other programs and from our own exports."""
