"""Weights of a trained net in and out: other programs' file formats and layouts."""
