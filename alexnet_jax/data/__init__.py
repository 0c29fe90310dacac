"""Data sets: from image files to augmented batches (§2, §4.1)."""
