"""The error of a process that has lost the others of its group."""

EXIT_LOST_PROCESS = 69  # exit code of a group that lost a process; launchers start it again


class LostProcess(Exception):
    """Another process of the group has ended, hangs or cannot be reached; the text names it."""
