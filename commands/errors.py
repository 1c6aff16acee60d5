"""The error of the commands."""


class CommandError(Exception):
    """A command cannot do what it was asked to: the message says why, and is printed without a traceback."""
