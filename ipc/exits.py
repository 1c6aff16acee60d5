"""Exit codes of a worker, which tell the broker why it ended."""

from enum import IntEnum
from typing import Final

ON_STOP_S: Final = 5.0
"""Seconds that a worker gives to the `on_stop` functions of its bundles, and the broker to the worker for them."""


class WorkerExit(IntEnum):
    """Reason why a worker process ended by itself; any other code comes from a plugin (`os._exit`).

    They are numbers that plugins hardly use, since the log explains them.
    """

    DONE = 0
    """The broker asked the worker to exit, or is gone."""
    USAGE = 64
    """The worker was not started by a broker."""
    DESCRIPTORS = 79
    """A bundle closed or replaced descriptors that are not its own while it was loaded."""
    IDENTITY = 80
    """A bundle gave the process another user, group or root folder while it was loaded."""
    LIMITS = 81
    """A bundle lowered the process's limits for good while it was loaded."""
    AUDIT = 82
    """A bundle installed an audit hook that refuses what every worker does."""
    CANNOT_START = 83
    """The storage or the bundles could not be set up; the reason was sent over the control socket."""
    CHANNEL = 84
    """The worker read impossible data from its ring: something wrote into memory that it does not own."""
    FAULT = 85
    """An uncaught exception ended one of the worker's loops; its traceback is in the log."""
    LOADING = 86
    """A bundle replaced functions without which no other bundle can be loaded."""

    @property
    def words(self) -> str:
        """Text that follows `exited with code N` in messages; empty for a code that plugins use as well."""
        return _WORDS[self]


_WORDS = {
    WorkerExit.DONE: "",
    WorkerExit.USAGE: "not started by a broker",
    WorkerExit.DESCRIPTORS: "its descriptors were closed",
    WorkerExit.IDENTITY: "its user, group or root folder was changed",
    WorkerExit.LIMITS: "its limits were lowered for good",
    WorkerExit.AUDIT: "an audit hook refuses to open files or to import modules",
    WorkerExit.CANNOT_START: "cannot start",
    WorkerExit.CHANNEL: "its ring is damaged",
    WorkerExit.FAULT: "an exception that nobody caught; its traceback is above",
    WorkerExit.LOADING: "no other bundle could be loaded: it replaced functions of Python",
}
