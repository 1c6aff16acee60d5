"""How many connections this process has descriptors for: its own work comes first, so that no peer can stop that."""

import logging
import resource
from typing import Final

log = logging.getLogger("tykpy.broker")

OWN: Final = 256
"""Descriptors kept for the broker itself: sockets, sinks of events, connections that are being refused."""
PER_WORKER: Final = 32
"""Kept per worker: a channel, its process and what starting one takes, twice, because a reload doubles the workers."""
FEWEST: Final = 16
"""Connections that are allowed whatever the system says: a broker without any serves nobody. What a worker needs is
held all the same (broker/host/descriptors.py)."""


def connections_allowed(wanted: int, workers: int) -> int:
    """As many of `wanted` connections as there are descriptors for; says so in the log where it is fewer.

    Raises this process's soft limit as far as needed.
    """
    reserve = _reserve(workers)
    files = raise_limit(wanted, workers)
    allowed = max(min(wanted, files - reserve), min(wanted, FEWEST))
    if allowed < wanted:
        text = (
            "at most %d connections instead of %d (--max-connections): of %d files that may be open %d are kept for the"
            " broker and its workers; LimitNOFILE= in the unit, or ulimit -Hn, allows more"
        )
        log.warning(text, allowed, wanted, files, reserve)
    return allowed


def raise_limit(connections: int, workers: int) -> int:
    """Raise the soft limit to what these need, or to the hard limit; returns what may be open, at most what they need.

    Workers inherit it.
    """
    needed = connections + _reserve(workers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _reserve(workers: int) -> int:
    return OWN + PER_WORKER * workers
