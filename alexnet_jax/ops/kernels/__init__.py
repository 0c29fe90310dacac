"""Parts of the Pallas kernels for NVIDIA GPUs: memory accesses and arithmetic of a segment."""
