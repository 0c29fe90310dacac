"""Trained nets: error rates, ensembles, and the files an evaluation writes (§6)."""
