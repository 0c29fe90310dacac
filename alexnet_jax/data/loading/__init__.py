"""Batches of images, read in threads and processes, and the images that cannot be read (§2)."""
