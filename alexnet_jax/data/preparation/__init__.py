"""Prepares data sets (§2): lists images in tars and folders, and writes them as TFDS records."""
