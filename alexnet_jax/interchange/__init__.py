"""Exports of trained nets in the formats of other programs, and imports of weights."""
