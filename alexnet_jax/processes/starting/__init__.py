"""The start of a group: each process finds out its place in it, and all meet."""
