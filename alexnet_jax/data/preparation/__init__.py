"""Prepares data sets (§2): lists images in folders and archives, writes them as TFDS records."""
