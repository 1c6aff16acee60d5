"""Sends counts to a StatsD server once a second (--statsd-host), by UDP from a thread of its own.

The names are gunicorn's where both have such a number, with `tykpy` in place of `gunicorn`. There are no names of
bundles and hooks in them: docs/monitoring.md lists all.
"""

import contextlib
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from signal import SIG_BLOCK, pthread_sigmask, valid_signals
from typing import Any, Final

from tykpy.broker.net.addresses import parse_tcp
from tykpy.broker.observe.listener import SWITCH_INTERVAL
from tykpy.broker.observe.source import SnapshotSource
from tykpy.telemetry.buckets import BOUNDS_NS, BUCKETS
from tykpy.telemetry.snapshot import HookSeries, Snapshot, decode_snapshot, no_counts

log = logging.getLogger("tykpy.statsd")

PERIOD: Final = 1.0
"""Seconds between two reports."""
MAX_DATAGRAM: Final = 1_432
"""Bytes of a datagram, as StatsD's authors recommend for Ethernet."""
RESOLVE_SECONDS: Final = 60.0
"""Seconds for which the address of the server's name is used."""
CLOSE_SECONDS: Final = 2.0
"""Longest time that the end of the broker waits for the last report: a name server may not answer."""
_EDGES: Final = (0, *BOUNDS_NS, BOUNDS_NS[-1])
BUCKET_MS: Final = tuple((low + high) / 2e6 for low, high in pairwise(_EDGES))
"""The middle of each bucket of durations, in ms; of the last one, its lower bound."""


class StatsdReporter:
    """The thread, for the broker's event loop. It reads snapshots that are taken anyway."""

    def __init__(self, source: SnapshotSource, host: str, prefix: str) -> None:
        """`host` is `host:port`."""
        self._source = source
        self._host = host
        self._sender = StatsdSender(host)
        self._report = StatsdReport(prefix)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statsd", daemon=True)

    def start(self) -> None:
        """Report from now on."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()
        log.info("metrics to StatsD at %s", self._host)

    def close(self) -> None:
        """Send a last report; works also before `start`."""
        if self._thread.is_alive():
            self._source.renew()
            self._stop.set()
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        # Signals are for the main thread.
        pthread_sigmask(SIG_BLOCK, valid_signals())
        with contextlib.closing(self._sender):
            while not self._stop.wait(PERIOD):
                self._send()
            self._send()

    def _send(self) -> None:
        if (packed := self._source.last) is not None:
            self._sender.send(self._report.lines(decode_snapshot(packed.data)))


class StatsdSender:
    """A UDP socket. What cannot be sent is dropped, and logged once until something is sent again."""

    def __init__(self, host: str) -> None:
        self._host, self._port = parse_tcp(f"tcp://{host}")
        self._socket: socket.socket | None = None
        self._address: Any = None
        self._resolve_at = 0.0
        self._failing = False

    def send(self, lines: Iterator[str]) -> None:
        """Send lines in as few datagrams as possible."""
        datagrams = list(_datagrams(lines))
        try:
            sock = self._connected()
            for datagram in datagrams:
                sock.sendto(datagram, self._address)
        except OSError as error:
            if not self._failing:
                log.warning("cannot send metrics to StatsD at %s:%d: %s", self._host, self._port, error)
            self._failing = True
            self._resolve_at = 0.0
        else:
            self._failing = False

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None or time.monotonic() >= self._resolve_at:
            self.close()
            family, kind, protocol, _, self._address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_DGRAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._resolve_at = time.monotonic() + RESOLVE_SECONDS
        return self._socket


class StatsdReport:
    """Makes lines from snapshots: gauges as they are, counters by how much they grew since the one before."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix.rstrip('.')}." if prefix else ""
        self._counts: dict[str, int] = {}
        self._series: dict[tuple[str, ...], list[int]] = {}

    def lines(self, now: Snapshot) -> Iterator[str]:
        """Yield the lines for a snapshot."""
        prefix = f"{self._prefix}tykpy."
        durations, codes = self._ended(now.series)
        yield f"{prefix}requests:{sum(codes.values())}|c"
        for code, count in codes.items():
            yield f"{prefix}request.status.{code}:{count}|c"
        for bucket, count in enumerate(durations):
            if count:
                # A server counts a timing of sample rate 0.1 as ten.
                yield f"{prefix}request.duration:{BUCKET_MS[bucket]:g}|ms|@{1 / count:.9f}"
        counts = {
            **{f"rejected.{reason}": count for reason, count in now.rejected.items()},
            **{f"worker.restarts.{reason}": count for reason, count in now.restarts.items()},
            **{f"reloads.{result}": count for result, count in now.reloads.items()},
            "store.errors": now.store.errors,
            "log.dropped": now.log_dropped,
        }
        for name, count in counts.items():
            if grown := count - self._counts.get(name, 0):
                yield f"{prefix}{name}:{grown}|c"
        self._counts = counts
        gauges = {
            "workers": now.ready,
            "workers_wanted": now.wanted,
            "queue_depth": now.waiting,
            "in_flight": sum(worker.in_flight for worker in now.workers),
            "held_bytes": now.held_bytes,
            "breakers_open": len(now.breakers),
            "store_up": int(now.store.state != "fails"),
        }
        for name, value in gauges.items():
            yield f"{prefix}{name}:{value}|g"

    def _ended(self, series: list[HookSeries]) -> tuple[list[int], Counter[str]]:
        """Return the dispatches that ended since the last report, by bucket of duration and by code."""
        before, self._series = self._series, {}
        durations, codes = no_counts(), Counter[str]()
        for one in series:
            key = one.bundle, one.hook, one.hook_type, one.code
            old = before.get(key) or no_counts()
            self._series[key] = one.dispatch_counts
            if one.dispatch_counts == old:
                continue
            if sum(one.dispatch_counts) < sum(old):
                # A hook that was gone, and is back.
                old = no_counts()
            for bucket in range(BUCKETS):
                grown = one.dispatch_counts[bucket] - old[bucket]
                durations[bucket] += grown
                codes[one.code] += grown
        return durations, codes


def _datagrams(lines: Iterator[str]) -> Iterator[bytes]:
    held = ""
    for line in lines:
        if held and len(held) + 1 + len(line) > MAX_DATAGRAM:
            yield held.encode()
            held = ""
        held = f"{held}\n{line}" if held else line
    if held:
        yield held.encode()
