"""Debuggers: pdb in the terminal of `tykpy dev`, an editor with --debugpy, and a broker that has none."""

import fcntl
import os
import pty
import select
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from tests.support.broker import TYKPY, RunningBroker, wait_until
from tests.support.bundles import write_bundle
from tests.support.dev_command import DevCommand
from tests.support.peers.debugger import Debugger
from tests.support.peers.redis_server import free_port

HOOKS = """
@Pre
def stop(request, session, spec):
    print("before")
    answer = 42
    breakpoint()
    request.add_header("X-Answer", str(answer))
    print("after")
    return request, session

@Pre
async def stop_async(request, session, spec):
    answer = 43
    breakpoint()
    request.add_header("X-Answer", str(answer))
    return request, session
"""


EDITED = """
@Pre
def hook(request, session, spec):
    answer = {}
    request.add_header("X-Answer", str(answer))
    return request, session
"""


class DevTerminal(DevCommand):
    """`tykpy dev` in a terminal of its own."""

    def __enter__(self) -> Self:
        self._shown = b""
        self._descriptor, inner = pty.openpty()
        self.process = subprocess.Popen(
            self._command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inner)
        self._find_port()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        os.close(self._descriptor)

    @property
    def output(self) -> str:
        while select.select([self._descriptor], [], [], 0.02)[0]:
            try:
                self._shown += os.read(self._descriptor, 65_536)
            except OSError:  # the process has ended
                break
        return self._shown.decode().replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._descriptor, text.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._descriptor, b"\x03")


@pytest.mark.parametrize(("hook", "answer"), [("stop", "42"), ("stop_async", "43")])
def test_breakpoint_gives_the_terminal_to_pdb(tmp_path: Path, hook: str, answer: str) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": HOOKS}, pre=[{"name": hook}])
    with DevTerminal(bundle, tmp_path, "--timeout", "0.5s") as dev, ThreadPoolExecutor() as pool:
        running = pool.submit(dev.get, "/debugged")
        dev.wait_for("(Pdb) ")
        dev.type("p answer")
        dev.wait_for(f"p answer\n{answer}\n")
        dev.type("__import__('time').sleep(1)")  # longer than --timeout
        shown = dev.output
        dev.interrupt()
        dev.wait_for("(Pdb) ", after=shown)
        reloading = pool.submit(dev.admin, "POST", "reload")  # waits
        dev.type("p -len(str(answer))")
        dev.wait_for("\n-2\n", after=shown)
        assert not reloading.done()
        dev.type("continue")
        assert running.result().json["headers"]["X-Answer"] == answer
        dev.wait_for("GET /debugged 200")
        assert reloading.result().json["problems"] == []
        # The next call is debugged again, and the terminal is ours in between.
        shown = dev.output
        again = pool.submit(dev.get, "/again")
        dev.wait_for("(Pdb) ", after=shown)
        dev.type("continue")
        assert again.result().status == 200
        dev.wait_for("GET /again 200")
        dev.interrupt()
        wait_until(lambda: bool(dev.output) and dev.process.poll() is not None, lambda: f"Ctrl-C ends it: {dev.output}")


def test_breakpoint_without_a_terminal_goes_on(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": HOOKS}, pre=[{"name": "stop"}])
    with DevCommand(bundle, tmp_path / "log") as dev:
        assert dev.get().json["headers"]["X-Answer"] == "42"
        dev.wait_for("breakpoint(): there is no terminal to debug in")


def adapters(port: int) -> list[int]:
    """Return the processes that take an editor's connections for debugpy."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if {"--for-server", str(port)} <= set(one.info["cmdline"] or ())]


def test_an_editor_stays_attached_over_reloads(tmp_path: Path) -> None:
    pytest.importorskip("debugpy")
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": EDITED.format(1)}, pre=[{"name": "hook"}])
    file = bundle / "middleware.py"
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "add_header" in text)
    port = free_port()
    options = ("--debugpy", str(port), "--timeout", "0.1s")
    with DevCommand(bundle, tmp_path / "log", *options) as dev, ThreadPoolExecutor() as pool:
        with Debugger(port) as debugger:
            debugger.attach(file, line)
            for answer in (1, 2):
                if answer == 2:
                    write_bundle(bundle, {"middleware.py": EDITED.format(2)}, pre=[{"name": "hook"}])
                    assert dev.admin("POST", "reload").json["problems"] == []
                running = pool.submit(dev.get)
                thread = debugger.wait_until_stopped()
                assert debugger.evaluate(thread, "answer") == str(answer)
                debugger.proceed(thread)
                assert running.result().json["headers"]["X-Answer"] == str(answer)
        assert adapters(port)
    assert not adapters(port)


def test_breakpoint_in_a_broker_is_an_error_that_explains(tmp_path: Path) -> None:
    with RunningBroker(tmp_path) as broker:
        broker.add_file("debugged.py", "from tyk.decorators import *\n" + HOOKS)
        done = subprocess.run(
            [TYKPY, "call", "stop", "--bundle", "debugged.py", "--connect", broker.address],
            capture_output=True,
            text=True,
            check=False,
        )
    assert "breakpoint() has no terminal in a broker's worker; debug hooks with `tykpy dev`" in done.stderr
    assert "debugged.py:7" in done.stderr
