"""Hooks for `benchmarks.recovery`: they answer, wait to be killed, or hang."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from tyk.decorators import Pre

LIMIT_SECONDS = 0.2
HANGS = 100
"""Hooks that hang, of each kind: one that has hung three times is left alone."""


def enter(request: Any) -> None:
    """Say that we run, and as which process."""
    path = Path(request.get_header("Entered"))
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)


@Pre
def answers(request: Any, session: Any, spec: Any) -> Any:
    """Answer at once."""
    return request, session


@Pre
def waits(request: Any, session: Any, spec: Any) -> Any:
    """Wait for the end."""
    enter(request)
    time.sleep(60)
    return request, session


def spins(request: Any, session: Any, spec: Any) -> Any:
    """Never come back."""
    enter(request)
    while True:
        pass


def stops(request: Any, session: Any, spec: Any) -> Any:
    """Be stopped where it stands."""
    enter(request)
    os.kill(os.getpid(), signal.SIGSTOP)
    return request, session


def hanging(way: Any, number: int) -> Any:
    """A hook of its own."""

    def hook(request: Any, session: Any, spec: Any) -> Any:
        return way(request, session, spec)

    hook.__name__ = f"{way.__name__}_{number}"
    return Pre(timeout=LIMIT_SECONDS)(hook)


for kind in (spins, stops):
    for index in range(HANGS):
        globals()[f"{kind.__name__}_{index}"] = hanging(kind, index)
