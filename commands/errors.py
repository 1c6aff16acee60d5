"""What keeps a command from doing what it was asked."""


class CommandError(Exception):
    """The message says what happened and what to do; the command line prints it without a traceback."""
