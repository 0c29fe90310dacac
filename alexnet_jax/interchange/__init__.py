"""Trained nets that leave in the formats of other programs, and weights that come in."""
