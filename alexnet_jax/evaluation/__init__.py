"""Trained nets: error rates, ensembles, ablations, and the files of an evaluation (§6)."""
