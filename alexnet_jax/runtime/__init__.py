"""Tools of every program beside the paper: user errors, atomic files, locks, progress bars."""
