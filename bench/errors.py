"""What keeps a measurement from being one."""

from tykpy.commands.errors import CommandError


class BenchError(CommandError):
    """The message says what happened and what to do; the command line prints it without a traceback."""


class ProtocolError(BenchError):
    """The server's HTTP/2 is none, or more than the load generator reads."""


class ProcessGoneError(BenchError):
    """A process that was to be measured has ended, or may not be looked at."""
