"""The eight layers, written from the point of view of one GPU, and where towers meet (§3)."""
