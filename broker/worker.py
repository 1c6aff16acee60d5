"""What the supervisor keeps of one worker generation."""

import asyncio
import time
from enum import Enum
from typing import Any

from broker.link import Link
from broker.process import WorkerProcess
from ipc.channel import BrokerChannel


class WorkerState(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"


class Worker:
    """One process, its channel, and the timers that wait for it."""

    __slots__ = (
        "channel",
        "ending",
        "failure",
        "generation",
        "link",
        "patience",
        "process",
        "replaced",
        "slot",
        "started",
        "state",
    )

    def __init__(self, slot: int, generation: int, channel: BrokerChannel, process: WorkerProcess) -> None:
        self.slot = slot
        self.generation = generation
        self.channel = channel
        self.process = process
        self.link: Link | None = None
        self.state = WorkerState.STARTING
        self.started = time.monotonic()
        self.patience: asyncio.TimerHandle | None = None
        """Runs out when the worker is not ready in time."""
        self.ending: asyncio.TimerHandle | None = None
        """Runs out when a hung worker has had its grace."""
        self.failure: str | None = None
        """Why it does not start or ends, in its own words."""
        self.replaced = False
        """Another worker has its slot already."""

    def end_patience(self) -> None:
        """Stop waiting for the worker to be ready, and for it to come back."""
        for timer in (self.patience, self.ending):
            if timer is not None:
                timer.cancel()
        self.patience = self.ending = None

    def describe(self) -> dict[str, Any]:
        """One row of `tykpy status`."""
        link = self.link
        return {
            "slot": self.slot,
            "generation": self.generation,
            "pid": self.process.pid,
            "state": self.state.value if link is None or link.open else "leaving",
            "in_flight": len(link.in_flight) if link else 0,
            "age_s": round(time.monotonic() - self.started, 3),
        }

    def __str__(self) -> str:
        return f"worker {self.slot} (process {self.process.pid})"
