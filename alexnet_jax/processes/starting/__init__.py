"""The start of a group: each process detects its place in the group, and waits for the others."""
