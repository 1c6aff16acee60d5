"""`tykpy top` in a terminal of its own, and for scripts, while a broker serves, hangs and ends."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte
import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, stop_process, wait_until

HOOKS = """
from tyk.decorators import Pre

@Pre
def fine(request, session, spec):
    return request, session

@Pre
def raises(request, session, spec):
    raise ValueError("no")
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    one = RunningBroker(tmp_path_factory.mktemp("top"))
    one.add_file("orders.py", HOOKS)
    with one:
        for _ in range(20):
            one.call("fine", bundle="orders.py")
        yield one


class Terminal:
    """`tykpy top` in a pseudo-terminal, and what a person sees of it."""

    def __init__(self, runtime: Path, columns: int = 80, rows: int = 24) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._descriptor, inner = pty.openpty()
        _set_size(inner, columns, rows)
        self.process = subprocess.Popen(
            [TYKPY, "top", "--runtime-dir", str(runtime)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(inner)

    @property
    def text(self) -> str:
        """What is on the screen now."""
        while select.select([self._descriptor], [], [], 0.05)[0]:
            try:
                self._stream.feed(os.read(self._descriptor, 65_536))
            except OSError:  # its process has ended
                break
        return "\n".join(line.rstrip() for line in self._screen.display)

    def wait_for(self, *texts: str) -> str:
        """Wait until all texts are on the screen; return the screen."""
        wait_until(lambda: all(text in self.text for text in texts), lambda: f"{texts} in:\n{self.text}")
        return self.text

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._descriptor, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self._screen.resize(rows, columns)
        _set_size(self._descriptor, columns, rows)

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            _ = self.text  # a terminal that nobody reads stops its program
        return self.process.wait(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._descriptor)


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def run_top(runtime: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [TYKPY, "top", "--runtime-dir", str(runtime), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@contextlib.contextmanager
def stopped(broker: RunningBroker) -> Iterator[None]:
    """Stop the broker's process, so that its event loop does not turn."""
    stop_process(broker.pid)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_a_terminal_shows_the_broker_and_obeys_keys(broker: RunningBroker) -> None:
    with Terminal(broker.runtime) as terminal:
        first = terminal.wait_for("tykpy", "workers 1/1 ready", "store", "orders.py fine", "P99", "by time", "BREAKER")
        assert "TREND" not in first
        terminal.press(">")
        terminal.wait_for("by rate/s")
        terminal.press("\x1b[D")
        terminal.wait_for("by time")
        terminal.resize(120, 30)
        terminal.wait_for("TREND", "▁")
        terminal.press("r")
        terminal.wait_for("reload the bundles?")
        terminal.press("n")
        terminal.wait_for("by time")
        terminal.press("r")
        terminal.wait_for("reload the bundles?")
        terminal.press("y")
        terminal.wait_for("reloaded by 1 worker in")
        terminal.press("s")
        terminal.wait_for("worker 0 (process", "other key: back")
        terminal.press("x")
        terminal.wait_for("by time")
        terminal.press("q")
        assert terminal.end() == 0


def test_once_prints_a_frame_without_terminal_control(broker: RunningBroker) -> None:
    with pytest.raises(Exception, match="no"):
        broker.call("raises", bundle="orders.py")
    done = run_top(broker.runtime, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "orders.py fine" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_has_one_object_per_sample(broker: RunningBroker) -> None:
    once = run_top(broker.runtime, "--once", "--json")
    (line,) = once.stdout.splitlines()
    view: dict[str, Any] = json.loads(line)
    assert view["pid"] == broker.pid
    assert view["stuck"] is False
    assert {one["hook"] for one in view["hooks"]} >= {"fine"}
    assert 0.4 < view["seconds"] < PATIENCE
    command = [TYKPY, "top", "--json", "--runtime-dir", str(broker.runtime)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        views = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    assert [one["pid"] for one in views] == [broker.pid, broker.pid]


def test_a_stuck_event_loop_is_shown_with_its_last_numbers(broker: RunningBroker) -> None:
    with Terminal(broker.runtime) as terminal:
        terminal.wait_for("orders.py fine")
        with stopped(broker):
            terminal.wait_for("event loop has not turned for", "orders.py fine")
            assert "event loop has not turned for" in run_top(broker.runtime, "--once").stdout
            assert json.loads(run_top(broker.runtime, "--once", "--json").stdout)["stuck"] is True
        wait_until(lambda: "event loop" not in terminal.text, lambda: terminal.text)


def test_before_the_first_answer_and_after_a_kill(tmp_path: Path) -> None:
    with RunningBroker(tmp_path) as broker:
        assert "no dispatch has ended yet\n" in run_top(broker.runtime, "--once").stdout
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        done = run_top(broker.runtime, "--once")
        assert done.returncode == 1
        assert re.match(rf"tykpy: the broker was killed; last seen \d+\.\d s ago: pid {broker.pid}, ", done.stderr)


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    for flags in (["--once"], ["--json"]):
        done = run_top(tmp_path, *flags)
        assert done.returncode == 1
        assert done.stderr.startswith("tykpy: no broker runs with --runtime-dir")
    with Terminal(tmp_path) as terminal:
        assert terminal.end() == 1
        assert "no broker runs" in terminal.text


def test_the_view_stays_when_the_broker_ends_and_another_comes(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    with broker, Terminal(broker.runtime) as terminal:
        terminal.wait_for(f"pid {broker.pid}")
        broker.stop()
        terminal.wait_for("no broker runs with")
        broker.forget_status()
        broker.start().wait_ready()
        terminal.wait_for(f"pid {broker.pid}")
        wait_until(lambda: "no broker runs" not in terminal.text, lambda: terminal.text)


def test_pipes_are_told_of_once_and_json(broker: RunningBroker) -> None:
    done = run_top(broker.runtime)
    assert done.returncode == 1
    assert "needs a terminal; use --once or --json" in done.stderr


def test_without_rich_the_extra_is_named(broker: RunningBroker, tmp_path: Path) -> None:
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'rich' else f(n, *a)"
    run: Callable[..., Any] = subprocess.run
    program = f"{hide}\nfrom tykpy.cli import main\nmain(['top', '--runtime-dir', {str(broker.runtime)!r}])"
    done = run([str(Path(TYKPY).with_name("python")), "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'tykpy[tui]'" in done.stderr
