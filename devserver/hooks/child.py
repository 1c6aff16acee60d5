"""The process that runs the hooks of `tykpy dev`, on its terminal: `python -P -m tykpy.devserver.hooks.child SOCKET`.

Hooks run one at a time in the main thread, where a debugger works best; `async def` hooks run on one event loop in a
thread of its own.
"""

import contextlib
import faulthandler
import os
import pdb
import signal
import socket
import sys
import threading
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tykpy.devserver.hooks import wire
from tykpy.devserver.hooks.capture import CURRENT, Capture
from tykpy.devserver.hooks.contract import HookAnswer
from tykpy.devserver.hooks.runner import HookRunner, RunningCall
from tykpy.ipc.title import set_title
from tykpy.workers.storage import open_storage

TITLE: Final = "tykpy: worker"
NO_TERMINAL: Final = (
    "breakpoint(): there is no terminal to debug in, so the hook goes on. "
    "Start `tykpy dev` in a terminal, or with --debugpy PORT for an editor."
)
_NUMBER: Final[ContextVar[int]] = ContextVar("_NUMBER", default=0)
"""The number of the running call."""


class Child:
    """The process: its channel to `tykpy dev`, and its hooks."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        setup = self._receive()
        assert isinstance(setup, wire.HookSetup)
        folder = Path(setup.folder)
        self._capture = Capture()
        self._runner = HookRunner(map(Path, setup.sources), folder, open_storage(setup.redis or None, folder))
        self._has_debugger = bool(setup.debugpy)
        self._is_debugging = False
        if setup.debugpy:
            _listen(setup.debugpy)

    def run(self) -> None:
        """Run hooks until `tykpy dev` closes the channel."""
        sys.breakpointhook = self._break
        self._capture.start()
        self._load()
        while (message := self._receive()) is not None:
            if isinstance(message, wire.RunHook):
                self._call(message)
            elif isinstance(message, wire.Reload):
                self._load()
        self._capture.stop()
        self._runner.close()

    def _load(self) -> None:
        self._send(wire.Ready(self._runner.load()))

    def _call(self, message: wire.RunHook) -> None:
        call = RunningCall(message.kind, message.body, message.seconds)
        call.context.run(_NUMBER.set, message.call)
        self._runner.start(call).add_done_callback(lambda done: self._done(message.call, done.result()))

    def _done(self, number: int, answer: HookAnswer) -> None:
        self._take_terminal()
        body = None if answer.object is None else answer.object.SerializeToString()
        self._send(wire.Done(number, replace(answer, object=None), body))

    def _break(self, *args: Any, **options: Any) -> None:
        """Stop in a debugger: `sys.breakpointhook`."""
        if self._has_debugger:
            import debugpy

            self._send(wire.Paused(_NUMBER.get()))
            debugpy.breakpoint()
            return
        if not os.isatty(0):
            print(NO_TERMINAL, file=sys.stderr)
            return
        self._send(wire.Paused(_NUMBER.get()))
        self._leave_terminal()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if os.environ.get("PYTHONBREAKPOINT"):
            sys.__breakpointhook__(*args, **options)
        else:
            pdb.Pdb().set_trace(sys._getframe(1))

    def _leave_terminal(self) -> None:
        """Give the terminal to a debugger, until the call ends."""
        if not self._is_debugging:
            self._is_debugging = True
            self._capture.stop()
        CURRENT.set(None)

    def _take_terminal(self) -> None:
        """Take the terminal back when a call ends that a debugger had stopped."""
        if self._is_debugging:
            self._is_debugging = False
            sys.settrace(None)
            self._capture.start()
            _ignore_interrupts()

    def _send(self, message: wire.FromHooks) -> None:
        with self._sending, contextlib.suppress(BrokenPipeError):  # nobody waits any more
            self._channel.sendall(wire.framed(message))

    def _receive(self) -> wire.ToHooks | None:
        head = self._read(wire.LENGTH.size)
        return None if head is None else wire.decode_to_hooks(self._read(*wire.LENGTH.unpack(head)) or b"")

    def _read(self, size: int) -> bytes | None:
        data = bytearray(size)
        filled = 0
        while filled < size:
            count = self._channel.recv_into(memoryview(data)[filled:])
            if not count:
                return None
            filled += count
        return bytes(data)


def _listen(port: int) -> None:
    # Python's own modules are frozen, and nobody sets breakpoints in them: no warning about that.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import debugpy

    debugpy.listen(("127.0.0.1", port))


def _ignore_interrupts() -> None:
    # Ctrl-C is for `tykpy dev`, which then closes the channel.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> int:
    """Run until the channel is closed."""
    if len(sys.argv) != 2:
        print("this process is started by `tykpy dev`", file=sys.stderr)
        return 2
    _ignore_interrupts()
    faulthandler.enable()
    set_title(TITLE)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        sys.argv[:] = ["tykpy-dev"]
        Child(channel).run()
    return 0


if __name__ == "__main__":
    main()
    # Threads of plugins must not keep the process.
    os._exit(0)
