"""Pallas kernels for NVIDIA GPUs that Triton compiles, and their parts."""
