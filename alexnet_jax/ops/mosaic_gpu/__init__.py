"""Kernels for NVIDIA GPUs from Hopper on, compiled by Pallas's Mosaic GPU back end."""
