"""One event that a plugin triggered, as the broker receives it from a worker."""

from typing import NamedTuple


class ReceivedEvent(NamedTuple):
    """An event of a worker. `document` is JSON that the broker passes on without parsing it."""

    name: str
    id: str
    """Identifies the event: every delivery of it has the same id."""
    depth: int
    """Number of event handlers that led to it, one triggering the next; 0 if a gateway's call triggered it."""
    document: str
