"""Reasons why a measurement cannot be made."""

from tykpy.commands.errors import CommandError


class BenchError(CommandError):
    """Root of the benchmark's errors; the message says what happened and what to do."""


class ServerError(BenchError):
    """A server did not start, ended, or answered wrongly."""


class ProcessGoneError(BenchError):
    """A process that was to be measured has ended, or may not be looked at."""
