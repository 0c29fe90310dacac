"""Which device of which process holds which towers and which replica (§3.2)."""
