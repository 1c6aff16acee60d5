"""`@on_start` and `@on_stop` of bundles, in the workers of a real broker."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tykpy.client.grpc import GrpcCallError

WRITES = """
import asyncio, os, threading
from tyk.decorators import Pre, on_start, on_stop

def write(line):
    with open({diary!r}, "a") as diary:
        diary.write(f"{{os.getpid()}} {{line}}\\n")
"""
COMPLETE = (
    WRITES
    + """
import asyncio
loops = []

@on_start
def first():
    write("start 1 of VERSION")

@on_stop
async def last():
    write("stop 1 of VERSION")
    assert asyncio.get_running_loop() is loops[0]

@on_start
async def second():
    loops.append(asyncio.get_running_loop())
    await asyncio.sleep(0)
    write("start 2 of VERSION")

@on_stop
def first_to_stop():
    write("stop 2 of VERSION")

@Pre
async def complete(request, session, spec):
    request.add_header("Worker", str(os.getpid()))
    request.add_header("Same-Loop", str(asyncio.get_running_loop() is loops[0]))
    return request, session
"""
)
STARTS = ["start 1", "start 2"]
STOPS = ["stop 2", "stop 1"]
GREET = """
from tyk.decorators import Pre

@Pre
def NAME(request, session, spec):
    return request, session
"""
FAILURES = {
    "raises": (
        "@on_start\ndef connect():\n    raise OSError('no database')",
        "@on_start connect failed: OSError: no d",
    ),
    "exits": ("@on_start\ndef leave():\n    raise SystemExit(3)", "@on_start leave failed: called sys.exit(3)"),
    "raises_async": ("@on_start\nasync def ask():\n    raise KeyError('x')", "@on_start ask failed: KeyError: 'x'"),
    "hangs": ("@on_start\ndef wait():\n    threading.Event().wait()", "it was not loaded after 1 s (--load-timeout)"),
    "hangs_async": (
        "@on_start\nasync def wait():\n    await asyncio.Event().wait()",
        "it was not loaded after 1 s (--load-timeout)",
    ),
    "dies": ("@on_start\ndef die():\n    os._exit(7)", "the worker that loaded it exited with code 7"),
}


def lines(diary: Path) -> dict[int, list[str]]:
    """Return what each worker has written."""
    written: dict[int, list[str]] = {}
    for line in diary.read_text().splitlines():
        pid, _, text = line.partition(" ")
        written.setdefault(int(pid), []).append(text)
    return written


def pids(broker: RunningBroker) -> set[int]:
    return {worker["pid"] for worker in broker.status()["workers"] if worker["state"] == "ready"}


def described(broker: RunningBroker) -> dict[str, dict[str, Any]]:
    with broker.admin() as client:
        bundles = client.call("hooks")
    assert isinstance(bundles, list)
    return {bundle["name"]: bundle for bundle in bundles}


def of_version(version: str, *texts: str) -> list[str]:
    return [f"{text} of {version}" for text in texts]


def test_each_worker_starts_and_stops_its_bundles(tmp_path: Path) -> None:
    """Before it is ready, and when it is drained: by a reload, the old version, and by the broker's end."""
    diary = tmp_path / "diary"
    source = COMPLETE.format(diary=str(diary))
    with running_broker(tmp_path, workers=2, files={"mine.py": source.replace("VERSION", "a")}) as broker:
        old = pids(broker)
        assert lines(diary) == dict.fromkeys(old, of_version("a", *STARTS))
        assert broker.call("complete").request.set_headers["Same-Loop"] == "True"
        broker.add_file("mine.py", source.replace("VERSION", "b"))
        with broker.admin() as client:
            client.call("reload", timeout=120)
        new = pids(broker)
        expected = dict.fromkeys(old, of_version("a", *STARTS, *STOPS)) | dict.fromkeys(new, of_version("b", *STARTS))
        wait_until(lambda: lines(diary) == expected, lambda: diary.read_text())
        assert broker.stop() == 0
        expected |= dict.fromkeys(new, of_version("b", *STARTS, *STOPS))
        assert lines(diary) == expected
        assert "failed" not in broker.log


def test_recycled_workers_stop_and_killed_ones_do_not(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    source = COMPLETE.format(diary=str(diary)).replace("VERSION", "a")
    with running_broker(tmp_path, "--max-requests", "2", files={"mine.py": source}) as broker:
        (killed,) = pids(broker)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: bool(pids(broker) - {killed}), lambda: str(broker.status()))
        (recycled,) = pids(broker)
        for _ in range(4):  # the limit is 2, give or take a tenth
            broker.call("complete")
        stopped = of_version("a", *STARTS, *STOPS)
        wait_until(lambda: lines(diary)[recycled] == stopped, lambda: diary.read_text())
        assert lines(diary)[killed] == of_version("a", *STARTS)


def test_failures_at_the_start_affect_one_bundle(tmp_path: Path) -> None:
    head = WRITES.format(diary=os.devnull)
    files = {f"{name}.py": head + source + GREET.replace("NAME", name) for name, (source, _) in FAILURES.items()}
    files["well.py"] = GREET.replace("NAME", "well")
    with running_broker(tmp_path, "--load-timeout", "1", workers=2, files=files) as broker:
        bundles = described(broker)
        broker.call("well", bundle="well")
        for name, (_, reason) in FAILURES.items():
            assert reason in bundles[f"{name}.py"]["error"]["message"]
            with pytest.raises(GrpcCallError) as caught:
                broker.call(name, bundle=name)
            assert reason in str(caught.value)
        line = next(number for number, text in enumerate(files["raises.py"].splitlines(), 1) if "no database" in text)
        assert (bundles["raises.py"]["error"]["file"], bundles["raises.py"]["error"]["line"]) == (
            str(broker.bundles / "raises.py"),
            line,
        )


def test_a_bundle_that_does_not_stop_delays_no_other(tmp_path: Path) -> None:
    """It has five seconds, longer than an idle worker has to end; what fails to stop is logged with its place."""
    diary = tmp_path / "diary"
    head = WRITES.format(diary=str(diary))
    files = {
        "hangs.py": head + "@on_stop\ndef wait():\n    threading.Event().wait()\n",
        "raises.py": head
        + "@on_stop\ndef reached():\n    write('stopped')\n"
        + "@on_stop\ndef flush():\n    raise OSError('no disk')\n",
        "well.py": GREET.replace("NAME", "well"),
    }
    with running_broker(tmp_path, files=files) as broker:
        broker.call("well", bundle="well")
        assert broker.stop() == 0
        log = broker.log
    assert "bundle hangs.py: @on_stop did not end within 5 s" in log
    assert "bundle raises.py: @on_stop flush failed" in log
    assert "OSError: no disk" in log
    assert [text for texts in lines(diary).values() for text in texts] == ["stopped"]


def test_names_added_to_builtins_at_the_start_are_its_own(tmp_path: Path) -> None:
    source = """
import builtins
from tyk.decorators import Pre, on_start

@on_start
def start():
    builtins.started = {name!r}

@Pre
def tells(request, session, spec):
    request.add_header("X-Started", started)
    return request, session
"""
    files = {f"{name}.py": source.format(name=name) for name in ("one", "two")}
    with running_broker(tmp_path, files=files) as broker:
        answers = [broker.call("tells", bundle=name).request.set_headers["X-Started"] for name in ("one", "two")]
    assert answers == ["one", "two"]
