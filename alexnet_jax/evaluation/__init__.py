"""Trained nets: error rates, ensembles, ablations, sweeps, and the files of an evaluation (§6)."""
