"""Where the events go that plugins trigger with `TykGateway.trigger_event`."""

import logging

log = logging.getLogger("tykpy.events")


class LoggedEvents:
    """Writes each event to the log."""

    def trigger(self, name: str, payload: str) -> None:
        """Log one event."""
        log.info("%s %s", name, payload)
