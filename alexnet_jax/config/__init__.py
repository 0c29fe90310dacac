"""The settings of a run: schema, validation, command line, and the ablations (§5)."""
