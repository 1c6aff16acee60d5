"""Whether a worker's end is the doing of the hooks that it ran: where that is not known, nobody is blamed for it."""

import os
import time
from typing import Final

from tykpy.broker.pool.process import CPU_ENDING, Ending
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.blame import Cause
from tykpy.broker.router.link import Link
from tykpy.ipc.ring.layout import ExitReason

RENEWAL_SLACK: Final = 0.5
"""Seconds: a worker renews its limit of CPU time at the start of a dispatch, but not of each (see rlimits.py)."""


def ending_of(worker: Worker, limit_cpu: int) -> Ending:
    """Say how a worker has ended, and whether by a signal that is not due to anything that it did itself.

    `limit_cpu`: seconds of CPU time that it may use for a dispatch; 0: there is no limit.
    """
    ending = worker.process.ending()
    if worker.link is None:
        return ending
    if worker.channel.worker_status().exit_reason == ExitReason.SIGNALLED:
        return Ending(f"{ending.words}, which it was sent", by_itself=None)
    if ending.words.startswith(CPU_ENDING) and not _may_have_used(limit_cpu, worker.link):
        return Ending(f"{CPU_ENDING}, which it was sent", by_itself=False)
    return ending


def cause_of(worker: Worker, link: Link, ending: Ending) -> Cause:
    """What the hooks that it ran have to do with its end."""
    if link.overdue:
        return Cause.UNKNOWN if worker.stopped else Cause.HANG
    if worker.blamed or ending.by_itself:
        return Cause.CRASH
    return Cause.UNKNOWN if ending.by_itself is None else Cause.OUTSIDE


def _may_have_used(cpu_seconds: int, link: Link) -> bool:
    """Whether what the worker ran can have taken so much CPU time."""
    started = [link.channel.execution_started_ns(seq) for seq in link.channel.executing()]
    longest = max((time.monotonic_ns() - at for at in started), default=0) / 1e9
    return bool(cpu_seconds) and (longest + RENEWAL_SLACK) * (os.cpu_count() or 1) >= cpu_seconds
