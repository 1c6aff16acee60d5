"""A router that a test drives by hand, with a record of the workers that it reports."""

import asyncio
from collections.abc import Callable

from tests.support.channels import LocalWorker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tykpy.broker.arriving import HELD_BYTES
from tykpy.broker.router.link import Link
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.channel.messages import Request
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import unpack_frame

LONG_NS = 60_000_000_000


class Bench:
    """A router on an event loop that a test steps by hand."""

    def __init__(
        self, queue_size: int = 100, timeout_ns: int = LONG_NS, queue_wait_ns: int = 0, queue_bytes: int = HELD_BYTES
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.in_trouble: list[tuple[str, Link]] = []
        self.router = Router(self.loop, RouterOptions(timeout_ns, queue_size, queue_wait_ns, queue_bytes=queue_bytes))
        self.router.watcher = self

    def overdue(self, link: Link) -> None:
        """Record a worker whose hook runs past its limit."""
        self.in_trouble.append(("overdue", link))

    def gone(self, link: Link) -> None:
        """Record a worker that has closed its channel."""
        self.in_trouble.append(("gone", link))

    def silent(self, link: Link) -> None:
        """Record a worker that starts nothing."""
        self.in_trouble.append(("silent", link))

    def corrupt(self, link: Link, error: IpcError) -> None:
        """Record a worker that wrote something impossible."""
        self.in_trouble.append(("corrupt", link))

    def turn(self) -> None:
        """Run what is due on the loop, such as doorbells."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def stop_time(self) -> None:
        """Stop the loop's clock, except in `turn_until`: no timer is due, however slow the machine is."""
        now = self.loop.time()
        vars(self.loop)["time"] = lambda: now

    def turn_until(self, condition: Callable[[], bool]) -> None:
        """Run the loop with its timers until a condition is true."""
        stopped = vars(self.loop).pop("time", None) is not None

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(poll(), 30))
        if stopped:
            self.stop_time()

    def send(self, hook: str = "hook", **options: int) -> RecordedDispatch:
        """Dispatch an Object to a hook."""
        dispatch = RecordedDispatch(object_bytes(hook, options.pop("hook_type", 1)), **options)
        self.router.dispatch(dispatch)
        self.turn()
        return dispatch

    def run_on(self, worker: LocalWorker) -> None:
        """Let a worker join, and answer the next dispatch."""
        self.router.join(worker.link)
        self.turn()
        worker.finish(worker.claim())
        self.router.receive(worker.link)


def hook_of(request: Request) -> bytes:
    return bytes(unpack_frame(request.payload).body)
