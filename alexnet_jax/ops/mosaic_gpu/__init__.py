"""Kernels for NVIDIA GPUs from Ampere on, compiled by Pallas's Mosaic GPU back end."""
