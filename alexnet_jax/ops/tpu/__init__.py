"""Pallas kernels that are for TPUs alone."""
