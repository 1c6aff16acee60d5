"""Errors of recordings, with messages for people."""

from tykpy.commands.errors import CommandError


class TrafficError(CommandError):
    """Something about a recording or its replay is wrong."""


class RecordingError(TrafficError):
    """A file cannot be written, is no recording, or is damaged."""


class RedactionError(TrafficError):
    """A `--redact` that cannot be understood."""


class ReplayError(TrafficError):
    """A recording cannot be replayed with this bundle."""
