"""The time and random numbers, in a form that `tykpy replay` can repeat."""

from datetime import UTC, datetime
from random import Random, SystemRandom
from typing import Final
from uuid import UUID

from tyk.gateway import backend

_system: Final = SystemRandom()
_UUID_BITS: Final = 128


def time() -> float:
    """Return the time as `time.time` does: seconds since the epoch. In a replay, that of the recorded call."""
    reads, wall_clock = backend.READS.get(), backend.current().wall_clock
    return wall_clock() if reads is None else reads.time(wall_clock)


def now() -> datetime:
    """Return the time as a datetime in UTC. In a replay, that of the recorded call."""
    return datetime.fromtimestamp(time(), UTC)


def random() -> Random:
    """Return a source of random numbers: the system's own, or the recorded call's in a replay.

    A call that is recorded gets one whose seed is written to the recording: who can read that can repeat its numbers.
    """
    reads = backend.READS.get()
    return _system if reads is None else reads.random()


def uuid4() -> UUID:
    """Return a random UUID, as `uuid.uuid4` does. In a replay, that of the recorded call."""
    return UUID(int=random().getrandbits(_UUID_BITS), version=4)
