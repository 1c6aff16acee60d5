"""`python -m scripts.broker_pictures`: renew the pictures of a broker, docs/top.svg and docs/admin-page.png.

Both show a real broker that has been under load for as long as the page's plots reach back: the example bundle, and
hooks that call a partner (who fails for a minute) and crash. That takes 16 minutes.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from scripts.dev_pictures import as_svg
from tests.support.broker import RunningBroker
from tests.support.browser import browsing
from tests.support.peers.redis_server import free_port
from tests.support.root import ROOT
from tykpy.client.grpc import GrpcClient
from tykpy.commands.errors import CommandError
from tykpy.commands.objects import CallDescription, build_object, call_hook
from tykpy.commands.top.samples import SAMPLE_SECONDS, Samples
from tykpy.commands.top.screen import KEYS, SORTS, Screen
from tykpy.telemetry.view import SAMPLES

DOCS: Final = ROOT / "docs"
EXAMPLE: Final = ROOT / "examples" / "bundles" / "example"
MINUTES: Final = 16.0
CLIENTS: Final = 4
REQUESTS_PER_SECOND: Final = 20.0
"""Of all clients together, on average; a request makes a dispatch for each hook."""
WAVE_SECONDS: Final = 400.0
OUTAGE: Final = (0.6, 0.66)
"""Part of the time in which the partner fails."""
CRASHES: Final = 0.985
"""Part of the time after which documents crash a worker."""
WIDTH: Final = 120
"""Columns of the terminal."""
PARTNER: Final = '''
import asyncio
import os

from gateway import TykGateway
from tyk import store
from tyk.decorators import Post, Pre


@Pre
async def get_exchange_rate(request, session, spec):
    """Wait for a partner."""
    await asyncio.sleep(0.02)
    await store.aincr("exchange-rates")
    if request.get_header("X-Outage"):
        await asyncio.sleep(0.3)
        TykGateway.trigger_event("PartnerDown", {})
        raise ConnectionError("the partner does not answer")
    return request, session


@Post
def make_document(request, session, spec):
    """Compute, and crash like a faulty C library."""
    sum(range(50_000))
    if request.get_header("X-Crash"):
        os.abort()
    return request, session
'''
HOOKS: Final = (
    CallDescription("AddRequestId", "Pre", "example"),
    CallDescription("RefuseOldClients", "Pre", "example"),
    CallDescription("get_exchange_rate", "Pre", "partner.py"),
    CallDescription("CheckToken", "CustomKeyCheck", "example", headers=[("Authorization", "gold-token")]),
    CallDescription("StampBody", "Post", "example", body=b'{"item": "tea"}'),
    CallDescription("make_document", "Post", "partner.py"),
    CallDescription("HideServer", "Response", "example", response_headers=[("Server", "upstream/1.0")]),
)


class Moment(NamedTuple):
    """A moment of the load: its part of the whole time, and seconds."""

    part: float
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second of one client: waves, as of a working day."""
        return REQUESTS_PER_SECOND / CLIENTS * (1 + 0.4 * math.sin(self.seconds / WAVE_SECONDS * math.tau))

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What makes the partner's hooks fail."""
        outage = [("X-Outage", "1")] if OUTAGE[0] < self.part < OUTAGE[1] else []
        return outage + ([("X-Crash", "1")] if self.part > CRASHES else [])


class Clients:
    """Send requests until the end of the context."""

    def __init__(self, address: str, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        self._ended = threading.Event()
        self._clients = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    def __enter__(self) -> None:
        self._start = time.monotonic()
        for client in self._clients:
            client.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def _send(self) -> None:
        with GrpcClient(self._address) as client:
            due = self._start
            numbers = itertools.count()
            while not self._ended.wait(max(due - time.monotonic(), 0)):
                seconds = due - self._start
                moment = Moment(seconds / self._seconds, seconds)
                request_id = ("X-Request-Id", str(next(numbers)))
                due += 1 / moment.rate
                for hook in HOOKS:
                    call = dataclasses.replace(hook, headers=[*hook.headers, *moment.headers, request_id])
                    with contextlib.suppress(CommandError):
                        call_hook(client, build_object(call), timeout=10)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=MINUTES)
    seconds: float = parser.parse_args().minutes * 60
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as (running, url):
        with Clients(running.address, seconds):
            time.sleep(seconds)
            (DOCS / "top.svg").write_text(as_svg(top(running.runtime), "tykpy top", WIDTH))
            asyncio.run(take_admin_page(Path(name), url))


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[tuple[RunningBroker, str]]:
    """Yield a broker with both bundles, and the address of its page."""
    address = f"127.0.0.1:{free_port()}"
    one = RunningBroker(folder, "--event-log", "--admin-page", "--metrics", f"tcp://{address}", workers=2)
    shutil.copytree(EXAMPLE, one.bundles / "example")
    one.add_file("partner.py", PARTNER)
    with one:
        yield one, f"http://{address}/"


def top(runtime: Path) -> Screen:
    """Return what `tykpy top` shows when its trends are full."""
    samples = Samples(runtime)
    for _ in range(SAMPLES):
        samples.take()
        time.sleep(SAMPLE_SECONDS)
    return Screen(samples.take(), footer=f"{KEYS}   by {SORTS[0].lower()}")


async def take_admin_page(folder: Path, url: str) -> None:
    """Write a screenshot of the page."""
    async with browsing(folder) as page:
        await page.go(url)
        await page.wait_for("document.querySelectorAll('#hooks tr').length > 6")
        await page.screenshot(DOCS / "admin-page.png", width=1280, height=760)


if __name__ == "__main__":
    main()
