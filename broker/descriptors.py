"""Says when the process runs out of descriptors: neither event loop does so in a way that helps.

Without any left, uvloop closes each new connection without a word, and asyncio fills the log with tracebacks. What is
open goes on either way, and new connections are served as soon as there are descriptors again.
"""

import asyncio
import errno
import logging
import os
import resource
from typing import Any, Final

from broker.quiet_log import QuietLog

log = logging.getLogger("tykpy.broker")

LOOK_INTERVAL: Final = 1.0
"""Seconds; a look is opening and closing one."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


class DescriptorWatch:
    """Looks every second whether one more descriptor can be had."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._notices = QuietLog(log)
        self._exhausted = False

    def start(self) -> None:
        """Look from now on, and answer for what asyncio says when it cannot accept."""
        self._loop.set_exception_handler(self._on_fault)
        self._look()

    def _look(self) -> None:
        self._loop.call_later(LOOK_INTERVAL, self._look)
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self._complain(error)
            return
        if self._exhausted:
            self._exhausted = False
            log.info("descriptors are there again; new connections are served")

    def _complain(self, error: OSError) -> None:
        self._exhausted = True
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        message = (
            f"no descriptor can be had ({error.strerror}; the limit of this process is {limit}, LimitNOFILE= or"
            " ulimit -n): new connections are not served, workers cannot be replaced, what is open goes on"
        )
        self._notices.log(logging.ERROR, "descriptors", message)

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, OSError) and fault.errno in EXHAUSTED:
            self._complain(fault)
        else:
            loop.default_exception_handler(context)
