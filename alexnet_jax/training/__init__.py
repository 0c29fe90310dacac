"""The update rule, one training step, and the loop around it (§5)."""
