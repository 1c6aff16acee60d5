"""Upgrade: a new program is started with our listening sockets, and takes our place once it serves.

Until then nothing changes here. Afterwards the caller drains and ends; what goes wrong with the new program is logged,
and we go on.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from tykpy.broker.catalog import bundle_report
from tykpy.broker.host.exits import ExitCode
from tykpy.broker.host.handover import READY, Offer
from tykpy.broker.host.orphans import is_init
from tykpy.broker.net.sockets import ListeningSocket
from tykpy.broker.pool.process import describe_end, signals_blocked

log = logging.getLogger("tykpy.upgrade")

MARGIN: Final = 10.0
"""Seconds that a new program gets beyond what its workers may take to be ready."""


def own_command() -> list[str]:
    """The command that this process was started with, run by the same Python."""
    return [sys.executable, *sys.orig_argv[1:]]


class Upgrade:
    """Starts the successor, one at a time, and waits for what becomes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float, done: Callable[[int], None]) -> None:
        """`patience`: seconds until a successor must serve; `done` is called with its process number when it does."""
        self.last: dict[str, Any] | None = None
        """How the last try ended, for `tykpy status`."""
        self._loop = loop
        self._patience = patience + MARGIN
        self._done = done
        self._successor: _Successor | None = None

    def start(self, listening: Sequence[ListeningSocket], baseline: bundle_report.Description) -> None:
        """Start the successor with these sockets."""
        if is_init():
            self._failed("process 1 of a container ends it, and cannot be replaced; start a new container instead")
            return
        if self._successor is not None:
            log.warning("an upgrade is under way: process %d", self._successor.pid)
            return
        try:
            self._successor = _Successor(Offer.make(listening, baseline))
            self._watch(self._successor)
        except Exception as error:  # noqa: BLE001 (whatever it was: this program goes on, and the other one does not)
            self.close()
            self._failed(f"the new program cannot be started: {error}")
            return
        log.info("upgrading: process %d is to take over", self._successor.pid)

    def close(self) -> None:
        """End a successor that does not serve yet: we are told to stop, and so is it."""
        if self._successor is not None:
            self._successor.end()
            self._forget(self._successor)

    def _watch(self, successor: "_Successor") -> None:
        self._loop.add_reader(successor.ready, self._on_news, successor)
        self._loop.add_reader(successor.pidfd, self._on_end, successor)
        successor.timer = self._loop.call_later(self._patience, self._too_late, successor)

    def _on_news(self, successor: "_Successor") -> None:
        self._loop.remove_reader(successor.ready)
        if os.read(successor.ready, 1) != READY:
            return  # it is about to end
        # It is no child to wait for: it outlives us.
        successor.process.returncode = 0
        self._forget(successor)
        self.last = {"ok": True, "pid": successor.pid}
        log.info("process %d has taken over", successor.pid)
        self._done(successor.pid)

    def _too_late(self, successor: "_Successor") -> None:
        successor.late = True
        successor.process.kill()

    def _on_end(self, successor: "_Successor") -> None:
        ending = describe_end(successor.process.wait(), ExitCode)
        self._forget(successor)
        words = f"did not serve within {self._patience:g} s" if successor.late else ending.words
        self._failed(f"the new program {words}; its log says more")

    def _failed(self, why: str) -> None:
        self.last = {"ok": False, "why": why}
        log.error("not upgraded, this program goes on: %s", why)

    def _forget(self, successor: "_Successor") -> None:
        if successor.timer is not None:
            successor.timer.cancel()
        for descriptor in (successor.ready, successor.pidfd):
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._successor = None


class _Successor:
    """The process that is to take over. Raises OSError where it cannot be started or watched; it does not run then."""

    def __init__(self, offer: Offer) -> None:
        self.ready = offer.ready
        self.timer: asyncio.TimerHandle | None = None
        self.late = False
        """It had its time."""
        try:
            with signals_blocked():
                self.process = subprocess.Popen(
                    own_command(), pass_fds=offer.descriptors, env={**os.environ, **offer.environment}
                )
        except BaseException:
            os.close(offer.ready)
            raise
        finally:
            offer.close()
        self.pid = self.process.pid
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self.end()
            os.close(offer.ready)
            raise

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
