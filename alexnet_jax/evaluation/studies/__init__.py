"""Studies: ablations (§3, §4) and sweeps; their runs, the processes that train them, tables."""
