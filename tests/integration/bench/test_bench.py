"""`tykpy bench`: the load generator against a real broker, the command through the console script, and its end."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.bundles import write_bundle, write_files, write_zip
from tests.support.peers.redis_server import free_port
from tykpy.bench.errors import BenchError
from tykpy.bench.load import Order, RunProgress
from tykpy.bench.measure import NS_PER_SECOND, cpu_ns
from tykpy.bench.results import Sample
from tykpy.bench.ringcost import measure_ring
from tykpy.bench.runs import check, measure
from tykpy.bench.scenarios import BUILT_IN, own_scenario
from tykpy.bench.serving import ConnectedBroker, OwnBroker

HOOKS = """
import time
from tyk.decorators import *

@Pre
def mark(request, session, spec):
    request.add_header("X-Mine", str(len(request.object.raw_body)))
    return request, session

@Pre
def slow(request, session, spec):
    time.sleep(0.01)
    return request, session

@Pre
def fails(request, session, spec):
    raise ValueError("not today")
"""
SHORT = ("--seconds", "0.15", "--warm-up", "0.05", "--repeat", "1")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker that others have started."""
    with running_broker(tmp_path_factory.mktemp("broker"), files={"mine.py": HOOKS}) as running:
        yield running


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command puts what it needs for a while; nothing may be left there. Short, for sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)
        assert os.listdir(folder) == []


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TYKPY, "bench", *arguments], capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL
    )


def drive(broker: RunningBroker, hook: str, processes: int = 1, **values: Any) -> Sample:
    message = own_scenario(Path("mine"), hook, needs_files=False).build(None).SerializeToString()
    order: dict[str, Any] = {
        "streams": 4, "rate": 0.0, "warm_up": 0.0, "seconds": 0.1, "tail": 0.0, "drain": 30.0,
    }  # fmt: skip
    heard: list[RunProgress] = []
    wanted = Order(address=broker.address, messages=[message], **(order | values))
    return measure(wanted, processes, ConnectedBroker(broker.address), heard.append)


# The load generator


def test_a_closed_loop_gets_good_answers_and_loses_none(broker: RunningBroker) -> None:
    taken = broker.status()["dispatches"]
    sample = drive(broker, "mark", streams=8)
    now = broker.status()["dispatches"]
    assert sample.answered > 0
    assert (sample.failed, sample.unanswered) == (0, 0)
    assert sample.latencies_ns.total() == now["answered"] - taken["answered"]
    assert now["cancelled"] == taken["cancelled"]
    assert sample.usage.broker is not None
    assert sample.usage.workers is not None
    assert len(sample.usage.workers) == 1


def test_an_open_loop_makes_exactly_the_calls_that_are_due(broker: RunningBroker) -> None:
    sample = drive(broker, "mark", rate=400.0, seconds=0.25)
    assert sample.latencies_ns.total() == 100
    assert sample.failed == 0


def test_calls_with_a_traceparent_each_are_answered(broker: RunningBroker) -> None:
    sample = drive(broker, "mark", tracing=True)
    assert sample.answered > 0
    assert sample.failed == 0


def test_load_generators_share_the_order(broker: RunningBroker) -> None:
    sample = drive(broker, "mark", processes=2, rate=400.0, seconds=0.25)
    assert sample.latencies_ns.total() == 100
    assert sample.usage.load_processes == 2


def test_failing_calls_are_counted_and_named(broker: RunningBroker) -> None:
    sample = drive(broker, "fails")
    assert sample.answered == 0
    ((text, count),) = sample.failures.items()
    assert text.startswith("INTERNAL")
    assert "not today" in text
    assert count > 0
    assert sample.latencies_ns.total() == 0


def test_large_bodies_go_through_the_windows(broker: RunningBroker) -> None:
    obj = own_scenario(Path("mine"), "mark", needs_files=False).build(3 << 20)
    order = Order(broker.address, [obj.SerializeToString()], 4, 0.0, 0.0, 0.1, 0.0, 30.0)
    sample = measure(order, 1, ConnectedBroker(broker.address), lambda _: None)
    assert sample.latencies_ns.total() >= 4
    assert sample.failed == 0


def test_calls_that_never_get_through_are_counted(broker: RunningBroker) -> None:
    # 2,000 calls are due, nobody waits for more than what is answered at once.
    sample = drive(broker, "slow", rate=20_000.0, drain=0.0)
    assert sample.unanswered + sample.latencies_ns.total() == 2000
    assert sample.unanswered > 0


def test_a_load_generator_that_dies_is_named(broker: RunningBroker) -> None:
    message = own_scenario(Path("mine"), "mark", needs_files=False).build(None).SerializeToString()

    def kill(progress: RunProgress) -> None:
        for child in psutil.Process().children():
            if "tykpy.bench.load" in child.cmdline():
                child.kill()

    order = Order(broker.address, [message], 4, 0.0, 0.0, 60.0, 0.0, 30.0)
    with pytest.raises(BenchError, match="a load generator has ended early"):
        measure(order, 1, ConnectedBroker(broker.address), kill)


@pytest.mark.parametrize("seen", [True, False])
def test_over_tcp_processes_of_this_machine_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    if not seen:
        monkeypatch.setattr("tykpy.bench.serving.tcp_listener", lambda port: 0)
    with running_broker(tmp_path, "--listen", address, files={"mine.py": HOOKS}) as broker:
        scenario = own_scenario(Path("mine"), "mark", needs_files=False)
        server = ConnectedBroker(address, runtime=broker.runtime)
        check(server, scenario, scenario.build(None))
        message = scenario.build(None).SerializeToString()
        sample = measure(Order(address, [message], 4, 0.0, 0.0, 0.5, 0.0, 30.0), 1, server, lambda _: None)
    assert sample.answered > 0
    usage = sample.usage
    assert [figure is not None for figure in (usage.broker, usage.workers, usage.broker_mib, usage.waiting)] == [
        seen
    ] * 4


def test_a_running_broker_is_asked_through_its_admin_socket(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running_broker(tmp_path, files={"mine.py": HOOKS}) as broker:
        assert ConnectedBroker(broker.address).waiting() == 0
        moved = tmp_path / "other" / "s"
        moved.symlink_to(broker.socket)
        assert ConnectedBroker(f"unix://{moved}").waiting() is None
        assert ConnectedBroker(f"unix://{moved}", runtime=broker.runtime).waiting() == 0
        with running_broker(tmp_path / "other", files={"mine.py": HOOKS}) as another:
            assert ConnectedBroker(f"unix://{moved}", runtime=another.runtime).waiting() is None, "of another broker"


def test_a_missing_broker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no broker answers"):
        ConnectedBroker(f"unix://{tmp_path}/none.sock")
    order = Order(f"unix://{tmp_path}/none.sock", [b""], 1, 0.0, 0.0, 0.1, 0.0, 1.0)

    class Nowhere(ConnectedBroker):
        def __init__(self) -> None:
            self.address, self.threads, self.workers, self._pid = order.address, 0, 0, 0

    with pytest.raises(BenchError, match="no broker answers"):
        measure(order, 1, Nowhere(), lambda _: None)


@pytest.mark.parametrize("size", [1, 30_000, 200_000])
def test_the_ring_alone_costs_something_on_both_sides(size: int) -> None:
    cost = measure_ring(size)
    assert cost.broker > 0
    assert cost.worker > 0


SPY = """
import os, threading, time
from pathlib import Path
from tyk.decorators import Pre

@Pre
def spy(request, session, spec):
    size = len(request.object.raw_body)
    (Path({folder!r}) / f"{{os.getppid()}}-{{os.getpid()}}-{{threading.get_ident()}}-{{size}}").touch()
    time.sleep(0.01)
    return request, session
"""


def test_a_sweep_varies_workers_threads_and_bodies(tmp_path: Path, temporary: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    (tmp_path / "spy.py").write_text(SPY.format(folder=str(seen)))
    done = bench(
        # Every thread has to get a call.
        "--seconds", "0.3", "--warm-up", "0.05", "--repeat", "1",
        "--bundle", str(tmp_path / "spy.py"), "--hook", "spy", "--workers", "1,2", "--threads", "1,3",
        "--body-size", "1KiB,4KiB", "--streams", "24",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    brokers: dict[str, dict[str, set[str]]] = {}
    sizes: dict[str, set[str]] = {}
    for name in os.listdir(seen):
        broker, worker, thread, size = name.split("-")
        brokers.setdefault(broker, {}).setdefault(worker, set()).add(thread)
        sizes.setdefault(broker, set()).add(size)
    shapes = sorted((len(workers), *{len(threads) for threads in workers.values()}) for workers in brokers.values())
    assert shapes == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert all(found == {"1024", "4096"} for found in sizes.values())
    assert "spy, 2 workers, 3 threads, 24 streams, 4KiB body: limited by" in done.stdout


# Scenarios


def test_every_built_in_scenario_is_answered_rightly() -> None:
    files = sorted({path for scenario in BUILT_IN.values() for path in scenario.files})
    with OwnBroker(files, workers=1, threads=1, streams=1) as server:
        for scenario in BUILT_IN.values():
            for size in (*scenario.body_sizes, 2000):
                check(server, scenario, scenario.build(size))


def test_scenarios_need_what_they_say() -> None:
    files = [*BUILT_IN["cpu"].files, *BUILT_IN["wait"].files]
    with OwnBroker(files, workers=1, threads=1, streams=1) as server:
        worker = server.pids()[1:2]
        for name, waits, works in (("wait", 0.02, 0.0), ("wait-async", 0.02, 0.0), ("cpu", 0.0, 0.002)):
            scenario = BUILT_IN[name]
            began, used = time.monotonic(), cpu_ns(worker)[worker[0]]
            check(server, scenario, scenario.build(None))
            assert time.monotonic() - began >= waits
            assert cpu_ns(worker)[worker[0]] - used >= works * NS_PER_SECOND


def test_a_wrong_answer_is_not_measured(broker: RunningBroker) -> None:
    header = BUILT_IN["header"]
    obj = own_scenario(Path("mine"), "mark", needs_files=False).build(None)
    with pytest.raises(BenchError, match="not the expected one"):
        check(ConnectedBroker(broker.address), header, obj)


# The command


def test_a_sweep_ends_with_a_table_json_and_a_page(tmp_path: Path, temporary: Path) -> None:
    json_file, html_file = tmp_path / "a.json", tmp_path / "a.html"
    done = bench(
        "--seconds", "0.15", "--repeat", "2", "--warm-up", "0.05", "--workers", "1,2", "--scenario", "header",
        "--json", str(json_file), "--html", str(html_file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for case in ("header, 1 worker, 64 streams", "header, 2 workers, 64 streams"):
        assert f"{case}: limited by" in done.stdout
        assert f"2/2 {case}: " in done.stderr
    stored = json.loads(json_file.read_text())
    assert [result["case"]["workers"] for result in stored["results"]] == [1, 2]
    for result in stored["results"]:
        assert result["medians"]["rate"] > 0
        assert result["medians"]["total_us"] > 0
        assert not any(sample["failures"] or sample["unanswered"] for sample in result["samples"])
    ET.fromstring(html_file.read_text().removeprefix("<!DOCTYPE html>"))

    again = bench(*SHORT, "--workers", "1", "--compare", str(json_file))
    assert again.returncode == 0, again.stderr
    assert "one repetition" in again.stdout
    assert "1 case of then was not measured now" in again.stdout


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_has_a_live_view_and_then_tables(tmp_path: Path, temporary: Path, columns: int) -> None:
    ended, text = on_terminal(
        columns, "bench", "--seconds", "0.9", "--warm-up", "0.1", "--repeat", "1", "--workers", "1"
    )
    assert ended == 0, text
    assert "header, 1 worker, 64 streams, repetition 1: " in text
    assert re.search(r"[\d,]+/s  p50 .* +p99 .*\r\n[▁▂▃▄▅▆▇█]+", text), "how fast it is from moment to moment"
    assert "━" in text, "how far it is"
    tables = text.rpartition("┏")[2]
    assert re.search(r"│ header, 1 worker, 64 streams +│ +[\d,]+ │", tables), "in one line, however narrow"
    assert "header, 1 worker, 64 streams: limited by" in tables
    assert ("no room for: " in tables) == (columns == 80)


def test_a_pipe_gets_plain_lines(temporary: Path) -> None:
    done = bench(*SHORT, "--workers", "1")
    assert "\x1b" not in done.stdout + done.stderr
    first, *runs = done.stderr.splitlines()
    assert first == "about 0.2 s of load"
    assert [line.partition(": ")[0] for line in runs] == ["1/1 header, 1 worker, 64 streams"]
    assert "CPU workers" in done.stdout


def on_terminal(columns: int, *arguments: str) -> tuple[int, str]:
    """Run the command with a terminal of its own; gives its exit code and all that it wrote there."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"} | {"COLUMNS": str(columns), "LINES": "40"}
        process = subprocess.Popen([TYKPY, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        written = bytearray()
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := screen.read(65536):
                written += data
        ended = process.wait(60)
    return ended, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())


def test_a_hook_of_a_users_bundle_is_measured(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "mine.py").write_text(HOOKS)
    # Long, so that a busy machine can make up for a pause and meet the rate.
    paced = ("--seconds", "1", "--warm-up", "0.05", "--repeat", "1", "--rate", "20")
    done = bench(*paced, "--workers", "1", "--bundle", str(tmp_path / "mine.py"), "--hook", "mark")
    assert done.returncode == 0, done.stderr
    assert "mark, 1 worker, 20/s: not limited: the rate was met" in done.stdout


OWN_ONLY = {
    "middleware.py": """
        from tyk.decorators import *

        @Post
        def wants(request, session, spec):
            if request.object.headers.get("X-Own") != "1":
                raise ValueError("not the object of the user's")
            return request, session
        """
}


@pytest.mark.parametrize("form", ["folder", "zip", "py"])
def test_bundle_hook_and_object_are_the_users(tmp_path: Path, temporary: Path, form: str) -> None:
    if form == "py":
        bundle = write_files(tmp_path, {"own.py": OWN_ONLY["middleware.py"]}) / "own.py"
    else:
        write = write_bundle if form == "folder" else write_zip
        bundle = write(tmp_path / ("own.zip" if form == "zip" else "own"), OWN_ONLY, post=[{"name": "wants"}])
    flags = (*SHORT, "--workers", "1", "--bundle", str(bundle), "--hook", "wants", "--type", "Post")
    refused = bench(*flags)
    assert refused.returncode == 1
    assert "not the object of the user's" in refused.stderr
    own = {"hook_type": "Post", "request": {"headers": {"X-Own": "1"}}}
    (tmp_path / "object.json").write_text(json.dumps(own))
    done = bench(*flags, "--object", str(tmp_path / "object.json"))
    assert done.returncode == 0, done.stderr
    assert "wants, 1 worker, 64 streams: " in done.stdout


def test_a_running_broker_is_driven_and_left_running(broker: RunningBroker) -> None:
    done = bench(*SHORT, "--connect", broker.address, "--bundle", "mine", "--hook", "mark", "--streams", "4")
    assert done.returncode == 0, done.stderr
    assert "mark, 1 worker, 4 streams: " in done.stdout
    assert broker.status()["under_way"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bundle", "mine", "--hook", "nothing"], ["NOT_FOUND", "nothing", "mark"]),
        (["--bundle", "mine", "--hook", "fails"], ["INTERNAL", "not today"]),
        (["--bundle", "mine", "--hook", "mark", "--html", "/no/such/page.html"], ["/no/such/page.html"]),
        (["--bundle", "mine", "--hook", "mark", "--compare", "/no/such.json"], ["/no/such.json"]),
    ],
)
def test_errors_are_one_clear_line(broker: RunningBroker, arguments: list[str], told: list[str]) -> None:
    done = bench(*SHORT, "--connect", broker.address, *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tykpy: ")
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr


def test_a_broker_that_cannot_start_shows_its_log(tmp_path: Path, temporary: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TYKPY_QUEUE_SIZE", "0")
    done = bench(*SHORT, "--workers", "1")
    assert done.returncode == 1
    assert "--queue-size 0" in done.stderr


@pytest.mark.parametrize("package", ["rich", "psutil"])
def test_a_missing_extra_is_named(package: str) -> None:
    without = f"import sys; sys.modules[{package!r}] = None; from tykpy.cli import main; main(['bench'])"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"tykpy: tykpy bench needs the {package} package: pip install 'tykpy[bench]'\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_children_end_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        process = subprocess.Popen(
            [TYKPY, "bench", "--workers", "1", "--seconds", "60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": folder}, start_new_session=True,
        )  # fmt: skip
        family = psutil.Process(process.pid)
        # The broker, its worker, and the load generator.
        wait_until(lambda: len(family.children(recursive=True)) >= 3, lambda: "broker, worker and load run")
        children = family.children(recursive=True)
        process.send_signal(number)
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        if number is not signal.SIGKILL:
            assert os.listdir(folder) == []
