"""Parts of a report that compare runs: Figure 1, the ablations, any runs, and sweeps."""
