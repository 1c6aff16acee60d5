"""One event that a plugin triggered, as the broker receives it from a worker."""

from typing import Any, NamedTuple, Self


class ReceivedEvent(NamedTuple):
    """An event of a worker. `document` is JSON that the broker passes on without parsing it."""

    name: str
    id: str
    """Identifies the event: every delivery of it has the same id."""
    depth: int
    """Number of event handlers that led to it, one triggering the next; 0 if a gateway's call triggered it."""
    document: str

    @classmethod
    def from_message(cls, body: Any) -> Self:
        """Parse a worker's message; raises KeyError, TypeError or ValueError if it is not an event."""
        event = cls(body["name"], body["id"], body["depth"], body["document"])
        texts = (event.name, event.id, event.document)
        if not all(isinstance(text, str) for text in texts) or not isinstance(event.depth, int) or event.depth < 0:
            raise ValueError("an event with members of wrong types")
        return event
