"""Hooks in a process of their own: a crash ends a call, not `tykpy dev`, and a save starts new code in a clean one."""

import asyncio
import contextlib
import itertools
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.pool.process import describe_end
from tykpy.devserver.errors import HooksError
from tykpy.devserver.hooks import wire
from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles, Printed, Problem
from tykpy.ipc.exits import ON_STOP_S
from tykpy.ipc.frame import Kind

START_SECONDS: Final = 60.0
"""How long bundles may take to load."""
EXPIRED: Final = "EXPIRED"
"""Status of a call that took too long."""
CLOSE_SECONDS: Final = ON_STOP_S + 1
"""How long the process may take to end by itself; then it is killed."""


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[HookAnswer]
    limit: asyncio.Timeout
    is_paused: bool = False

    def pause(self) -> None:
        """Take the time limit away: a debugger has stopped the call."""
        self.is_paused = True
        self.limit.reschedule(None)


class HookProcess:
    """Starts the process with the first call or `reload`, and again after it has ended."""

    def __init__(self, setup: wire.HookSetup, timeout: float) -> None:
        """A call may take `timeout` seconds, unless a debugger stops it."""
        self._setup = setup
        self._timeout = None if setup.debugpy else timeout
        """None: an editor may stop any call, and nobody says so."""
        self._numbers = itertools.count(1)
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self.loaded = LoadedBundles()
        self.on_pause: list[Callable[[bool], None]] = []
        """Called with True when a debugger takes the terminal, with False when its call has ended."""

    async def reload(self) -> LoadedBundles:
        """Load the bundles as they are now, once no debugger stops a call; calls wait meanwhile. Raises HooksError."""
        await self._unpaused.wait()
        async with self._starting:
            if self._child is not None and self._child.is_alive and self._setup.debugpy:
                # In the same process, to which the debugger is connected.
                self.loaded = await self._child.reload()
            else:
                await self._restart()
        return self.loaded

    async def call(self, sent: Object) -> HookAnswer:
        """Run the hook that the object names."""
        return await self._run(Kind.OBJECT, sent.SerializeToString())

    async def send_event(self, event: Event) -> HookAnswer:
        """Run an event handler."""
        return await self._run(Kind.EVENT, event.SerializeToString())

    async def close(self) -> None:
        """End the process."""
        self._retire()
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _restart(self) -> None:
        started = await _Child.start(self._setup, self._notify)
        self._retire()
        self._child = started
        self.loaded = started.loaded

    def _retire(self) -> None:
        """End the process in the background: its `on_stop` functions take their time."""
        if self._child is not None:
            task = asyncio.create_task(self._child.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            self._child = None

    async def _run(self, kind: Kind, body: bytes) -> HookAnswer:
        async with self._starting:
            if self._child is None or not self._child.is_alive:
                try:
                    await self._restart()
                except HooksError as error:
                    return _unavailable(str(error))
            child = self._child
        assert child is not None
        answer = await child.run(next(self._numbers), kind, body, self._timeout)
        if answer.problem is not None and answer.problem.status == EXPIRED:
            child.kill()  # it hangs
        return answer

    def _notify(self, is_paused: bool) -> None:
        if is_paused:
            self._unpaused.clear()
        else:
            self._unpaused.set()
        for notify in self.on_pause:
            notify(is_paused)


class _Child:
    """One process and the channel to it."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        notify: Callable[[bool], None],
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._notify = notify
        self._pending: dict[int, _Pending] = {}
        self._ready: asyncio.Future[LoadedBundles] = asyncio.get_running_loop().create_future()
        self._receiving = asyncio.create_task(self._receive())
        self._is_killed = False
        self.loaded = LoadedBundles()

    @classmethod
    async def start(cls, setup: wire.HookSetup, notify: Callable[[bool], None]) -> "_Child":
        """Start a process and wait until its bundles are loaded. Raises HooksError."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "tykpy.devserver.hooks.child",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer, notify)
        try:
            child._send(setup)
            async with asyncio.timeout(START_SECONDS):
                child.loaded = await child._ready
        except TimeoutError:
            await child.close()
            raise HooksError(f"the bundles were not loaded within {START_SECONDS:.0f} s") from None
        except BaseException:
            await child.close()
            raise
        return child

    @property
    def is_alive(self) -> bool:
        """Whether the process takes calls."""
        return not (self._is_killed or self._receiving.done())

    @property
    def is_paused(self) -> bool:
        """Whether a debugger has stopped a call."""
        return any(pending.is_paused for pending in self._pending.values())

    async def reload(self) -> LoadedBundles:
        """Load the bundles again in the same process. Without a time limit: an editor may stop it at any line."""
        self._ready = asyncio.get_running_loop().create_future()
        self._send(wire.Reload())
        self.loaded = await self._ready
        return self.loaded

    async def run(self, number: int, kind: Kind, body: bytes, timeout: float | None) -> HookAnswer:
        """Run one call; it has no time limit once a debugger has stopped it."""
        try:
            async with asyncio.timeout(timeout) as limit:
                pending = self._pending[number] = _Pending(asyncio.get_running_loop().create_future(), limit)
                self._send(wire.RunHook(number, kind, body, timeout or 0.0))
                return await pending.answer
        except TimeoutError:
            return _late(timeout or 0.0)
        finally:
            self._pending.pop(number, None)

    def kill(self) -> None:
        """End the process at once."""
        self._is_killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """End the process."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), CLOSE_SECONDS)
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self._receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiving

    async def _receive(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(wire.LENGTH.size)
                self._take(wire.decode_from_hooks(await self._reader.readexactly(*wire.LENGTH.unpack(head))))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._end()

    def _take(self, message: wire.FromHooks) -> None:
        if isinstance(message, wire.Ready):
            if not self._ready.done():
                self._ready.set_result(message.loaded)
        elif (pending := self._pending.get(message.call)) is None:
            return  # it came too late
        elif isinstance(message, wire.Paused):
            pending.pause()
            self._notify(True)
        else:
            if pending.is_paused:
                self._notify(False)
            result = None if message.body is None else Object.FromString(message.body)
            if not pending.answer.done():
                pending.answer.set_result(replace(message.answer, object=result))

    async def _end(self) -> None:
        """Fail what waits: the process has ended."""
        how = describe_end(await self._process.wait()).words
        message = f"the process of the hooks {how}; the next request starts a new one"
        if self.is_paused:
            self._notify(False)
        if not self._ready.done():
            self._ready.set_exception(HooksError(message))
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_result(_unavailable(message))

    def _send(self, message: wire.ToHooks) -> None:
        self._writer.write(wire.framed(message))


def _unavailable(message: str) -> HookAnswer:
    return HookAnswer(problem=Problem("UNAVAILABLE", message))


def _late(timeout: float) -> HookAnswer:
    text = f"no answer within {timeout:g} s (--timeout); the process of the hooks is started again"
    return HookAnswer(problem=Problem(EXPIRED, text), printed=(Printed("stderr", text),), seconds=timeout)
