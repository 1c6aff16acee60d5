"""Load bundles and run their hooks in this process, by the same code as a worker."""

import asyncio
import sys
import threading
import time
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from tyk import gateway
from tyk.gateway.backend import Storage
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles.bundle import Bundle
from tykpy.bundles.errors import BundleError
from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.load_observer import LoadObserver
from tykpy.bundles.registry import BundleStore
from tykpy.devserver.hooks.capture import CURRENT, Output
from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles, Triggered
from tykpy.devserver.hooks.problems import load_problems, problem_of
from tykpy.ipc.exits import WorkerExit
from tykpy.ipc.frame import Kind, Packed, pack_frame, unpack_frame
from tykpy.workers.dispatch.invocation import Invocation
from tykpy.workers.dispatch.prepare import HookDispatcher
from tykpy.workers.events import OutgoingEvent
from tykpy.workers.lifespan import Lifespan

_UNPACKED: Final = "unpacked"
_NS_PER_S: Final = 1_000_000_000


class RunningCall:
    """One call: a message for a hook, and what the hook prints and triggers."""

    def __init__(self, kind: Kind, body: bytes, seconds: float = 0.0) -> None:
        """`seconds` is the time limit, for `tyk.current().time_left`; 0: none."""
        self._deadline_ns = time.monotonic_ns() + int(seconds * _NS_PER_S) if seconds else 0
        self._kind = kind
        self._body = body
        self._started = time.perf_counter()
        self.context = copy_context()
        self.output = Output()
        self.triggered: list[Triggered] = []
        self.invocation: Invocation | None = None

    def prepare(self, dispatcher: HookDispatcher) -> Invocation:
        """Decode the message and find its hook. Raises WorkerError."""
        CURRENT.set(self.output)
        _TRIGGERED.set(self.triggered)
        self.invocation = dispatcher.prepare(pack_frame(self._kind, None, self._body), deadline_ns=self._deadline_ns)
        return self.invocation

    def answered(self, packed: Packed) -> HookAnswer:
        """Return the answer for a result."""
        body = unpack_frame(packed).body
        answer = self._answer()
        return replace(answer, object=Object.FromString(body)) if self._kind is Kind.OBJECT else answer

    def failed(self, error: BaseException, roots: Iterable[str]) -> HookAnswer:
        """Return the answer for an exception."""
        return replace(self._answer(), problem=problem_of(error, roots))

    def _answer(self) -> HookAnswer:
        seconds = time.perf_counter() - self._started
        return HookAnswer(printed=self.output.finish(), triggered=tuple(self.triggered), seconds=seconds)


class HookRunner:
    """The bundles of some folders, calls of their hooks, and the event loop of those that are `async def`."""

    def __init__(self, sources: Iterable[Path], folder: Path, storage: Storage | None = None) -> None:
        """Look for bundles in `sources`; a source may be a bundle itself. `folder` is for what is unpacked."""
        self._sources = tuple(sources)
        self._folder = folder
        self._previous = gateway.install(storage=storage, trigger=_trigger)
        self._store: _DevBundles | None = None
        self._lifespan = Lifespan(self._run_coroutine)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="async-hooks", daemon=True)
        self._thread.start()

    def load(self) -> LoadedBundles:
        """Load the bundles as they are now, and run their `on_start` functions."""
        self._forget()
        self._lifespan = Lifespan(self._run_coroutine)
        observer = LoadObserver(guard=LoadGuard(end=_refuse))
        observer.start = self._lifespan.start
        self._store = store = _DevBundles(self._sources, self._folder / _UNPACKED, observer=observer)
        output = Output()
        token = CURRENT.set(output)
        try:
            store.load_all()
        finally:
            CURRENT.reset(token)
        for bundle in store.loaded():
            for hook in bundle.hooks.values():
                hook.unwatched_calls = sys.maxsize  # the gateway checks every call
        self._dispatcher = HookDispatcher(store)
        return LoadedBundles(tuple(store.describe()), tuple(load_problems(store.loaded())), output.finish())

    def start(self, call: RunningCall) -> "Future[HookAnswer]":
        """Run a call: here, or on the event loop if it is async. The future never fails."""
        answer = call.context.run(self._run, call)
        if answer is None:
            return asyncio.run_coroutine_threadsafe(self._start_async(call), self._loop)
        done: Future[HookAnswer] = Future()
        done.set_result(answer)
        return done

    def close(self) -> None:
        """Run the `on_stop` functions of the bundles, forget them, and end the event loop."""
        self._forget()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        gateway.restore(self._previous)

    def _run(self, call: RunningCall) -> HookAnswer | None:
        try:
            invocation = call.prepare(self._dispatcher)
            return None if invocation.is_async else call.answered(invocation.run())
        except BaseException as error:  # noqa: BLE001 (any exception fails this call only)
            return call.failed(error, self._roots())

    async def _start_async(self, call: RunningCall) -> HookAnswer:
        return await self._loop.create_task(self._run_async(call), context=call.context)

    async def _run_async(self, call: RunningCall) -> HookAnswer:
        assert call.invocation is not None
        try:
            return call.answered(await call.invocation.run_async())
        except BaseException as error:  # noqa: BLE001 (any exception fails this call only)
            return call.failed(error, self._roots())

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, object]) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _roots(self) -> list[str]:
        assert self._store is not None
        return [str(part.root) for bundle in self._store.loaded() for part in bundle.parts]

    def _forget(self) -> None:
        if self._store is not None:
            if self._lifespan.has_stops:
                self._lifespan.stop()
            for bundle in self._store.loaded():
                bundle.close()
            self._store.close()
            self._store = None


def _refuse(code: WorkerExit) -> NoReturn:
    """Report what would end a worker: this process, which may be that of tests, goes on without the bundle."""
    raise BundleError(f"it would end a worker: {code.words}")


class _DevBundles(BundleStore):
    """Bundles, of which a single one stands for whatever name an API definition has for it."""

    def find(self, bundle_hash: str) -> Bundle | None:
        found = super().find(bundle_hash)
        loaded = [bundle for bundle in self.loaded() if not bundle.is_other_file]
        return loaded[0] if found is None and len(loaded) == 1 else found


_TRIGGERED: Final[ContextVar[list[Triggered] | None]] = ContextVar("_TRIGGERED", default=None)
"""Where the running call's events go."""


def _trigger(name: str, payload: str) -> None:
    triggered = _TRIGGERED.get()
    if triggered is not None:
        event = OutgoingEvent.here(name, payload).message()
        triggered.append(Triggered(name, payload, event["document"], event["depth"]))
