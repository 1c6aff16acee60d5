"""Hooks in this process, for tests of plugins: no other process, and a debugger of the test's own."""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tyk.gateway.backend import Storage
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.devserver.hooks.capture import Capture
from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles
from tykpy.devserver.hooks.runner import HookRunner, RunningCall
from tykpy.ipc.frame import Kind


class LocalHooks:
    """Runs hooks on the event loop of the caller, one at a time unless they are `async def`."""

    def __init__(self, sources: Iterable[Path], storage: Storage | None = None) -> None:
        """`sources` are bundles, or folders of bundles. Without a `storage` the present one is used."""
        self._folder = tempfile.TemporaryDirectory(prefix="tykpy-dev-")
        self._runner = HookRunner(sources, Path(self._folder.name), storage)
        self._capture = Capture()

    async def reload(self) -> LoadedBundles:
        """Load the bundles as they are now."""
        with self._captured():
            return await asyncio.to_thread(self._runner.load)

    async def call(self, sent: Object) -> HookAnswer:
        """Run the hook that the object names."""
        return await self._run(Kind.OBJECT, sent.SerializeToString())

    async def send_event(self, event: Event) -> HookAnswer:
        """Run an event handler."""
        return await self._run(Kind.EVENT, event.SerializeToString())

    async def close(self) -> None:
        """Forget the bundles."""
        await asyncio.to_thread(self._runner.close)
        self._folder.cleanup()

    async def _run(self, kind: Kind, body: bytes) -> HookAnswer:
        with self._captured():
            return await asyncio.wrap_future(self._runner.start(RunningCall(kind, body)))

    @contextlib.contextmanager
    def _captured(self) -> Iterator[None]:
        self._capture.start()
        try:
            yield
        finally:
            self._capture.stop()
