"""Reads batches of images in threads and processes (§5): the loader."""
