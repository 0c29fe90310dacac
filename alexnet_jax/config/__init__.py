"""The settings of a run: schema, validation, config files, flags, and the ablations (§5)."""
