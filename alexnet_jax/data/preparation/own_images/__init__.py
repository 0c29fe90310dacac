"""A user's own images: their folders, their classes and their splits (§2)."""
