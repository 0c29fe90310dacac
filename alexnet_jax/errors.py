"""The one exception for a mistake that the user can mend."""


class UserError(Exception):
    """Says in one line what is wrong and what to do; `main` prints it and exits with code 2."""
