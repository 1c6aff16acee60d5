"""Events that plugins trigger reach handlers, Redis, a webhook and the log, through a real broker."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.hooks import Gate
from tests.support.peers.redis_server import free_port, running_redis, take_all_slots
from tests.support.peers.webhook import running_receiver
from tykpy.broker.events.handlers import MAX_DEPTH
from tykpy.client.grpc import GrpcCallError
from tykpy.commands.objects import build_event

SOURCE = """
import asyncio, json, os, time
from tyk.decorators import Pre, Event
from gateway import TykGateway as tyk

@Pre
def trigger(request, session, spec):
    payload = request.get_header("Payload")
    for _ in range(int(request.get_header("Times") or 1)):
        tyk.trigger_event(request.get_header("Event"), payload if payload is not None else {"left": 1})
    return request, session

@Pre
def trigger_when_the_gate_opens(request, session, spec):
    open(request.get_header("Entered"), "a").write(f"{os.getpid()} 0 -\\n")
    while not os.path.exists(request.get_header("Gate")):
        time.sleep(0.002)
    return trigger(request, session, spec)

@Pre
async def trigger_async(request, session, spec):
    await asyncio.to_thread(tyk.trigger_event, "noted", {"from": "a thread"})
    return request, session

@Pre
def trigger_and_die(request, session, spec):
    tyk.trigger_event("noted", "last words")
    time.sleep(0.2)
    os._exit(9)

def write(spec, event):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(event) + "\\n")

@Event
def noted(event, spec):
    write(spec, event)

@Event
async def noted_async(event, spec):
    await asyncio.sleep(0)
    write(spec, event)

@Event
def again(event, spec):
    write(spec, event)
    tyk.trigger_event("again", "once more")

@Event
def fails(event, spec):
    raise ValueError("of no use")
"""


class Bench:
    """A broker whose event handlers record their events in a file."""

    def __init__(self, broker: RunningBroker, notes: Path) -> None:
        self.broker = broker
        self._notes = notes

    def trigger(self, event: str, *, payload: str | None = None, times: int = 1, hook: str = "trigger") -> None:
        """Call a hook that triggers an event, in an API of the organisation `org`."""
        headers = [("Event", event), ("Times", str(times)), *([("Payload", payload)] if payload is not None else [])]
        spec = {"APIID": "api-1", "OrgID": "org", "config_data": "{}"}
        self.broker.call(hook, bundle="events", headers=headers, spec=spec)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """The events that the handlers recorded."""
        return [json.loads(line) for line in self._notes.read_text().splitlines()]

    def wait_notes(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` recorded events; return all of them."""
        wait_until(lambda: len(self.notes) >= count, lambda: f"{count} notes; there are {self.notes}")
        return self.notes

    def events(self) -> dict[str, Any]:
        """Return the events section of `tykpy status`."""
        found: dict[str, Any] = self.broker.status()["events"]
        return found

    def wait_count(self, part: str, counter: str, count: int) -> None:
        """Wait until a counter of `tykpy status` equals `count`."""
        wait_until(lambda: self.events()[part][counter] == count, lambda: f"{part}.{counter} {count}: {self.events()}")


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A broker with two workers and the flags from the test's parameter."""
    with running_bench(tmp_path, monkeypatch, *getattr(request, "param", ())) as one:
        yield one


class running_bench:  # noqa: N801 (read as a verb in a `with` statement)
    """Run a Bench for a `with` block."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, files: Any = None) -> None:
        notes = folder / "notes"
        notes.touch()
        monkeypatch.setenv("NOTES", str(notes))
        self._running = running_broker(folder, *flags, workers=2, files=files or {"events.py": SOURCE})
        self._notes = notes

    def __enter__(self) -> Bench:
        return Bench(self._running.__enter__(), self._notes)

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)


def test_an_event_reaches_the_handler_of_its_name(bench: Bench) -> None:
    bench.trigger("noted")
    (event,) = bench.wait_notes(1)
    origin = event.pop("triggered")
    time_stamp = event["message"].pop("TimeStamp")
    assert event["message"] == {"Type": "noted", "Meta": {"left": 1}}
    assert event["handler_name"] == "noted"
    assert {key: event["spec"][key] for key in ("APIID", "OrgID")} == {"APIID": "api-1", "OrgID": "org"}
    assert "config_data" not in event["spec"]
    assert (origin["bundle"], origin["depth"]) == ("events.py", 0)
    assert time_stamp.endswith(" +0000 UTC")
    bench.wait_count("handlers", "handled", 1)


def test_async_handlers_and_hooks_take_part(bench: Bench) -> None:
    bench.trigger("noted_async", payload="just text")
    bench.trigger("unused", hook="trigger_async")
    metas = [event["message"]["Meta"] for event in bench.wait_notes(2)]
    assert sorted(metas, key=str) == ["just text", {"from": "a thread"}]


def test_an_event_without_a_handler_is_no_error(bench: Bench) -> None:
    bench.trigger("nobody", times=3)
    bench.wait_count("handlers", "without_handler", 3)
    assert bench.broker.status()["dispatches"]["failed"] == 0
    bench.broker.wait_for_log("event 'nobody' goes nowhere")
    assert bench.broker.log.count("goes nowhere") == 1


def test_a_handler_that_triggers_its_own_event_comes_to_an_end(bench: Bench) -> None:
    bench.trigger("again")
    bench.wait_count("handlers", "looped", 1)
    assert [event["triggered"]["depth"] for event in bench.notes] == list(range(MAX_DEPTH))
    bench.broker.wait_for_log(f"event 'again' was triggered by {MAX_DEPTH} handlers")


def test_a_handler_that_fails_is_counted_and_logged(bench: Bench) -> None:
    bench.trigger("fails")
    bench.wait_count("handlers", "failed", 1)
    bench.broker.wait_for_log("event 'fails': hook fails of bundle")


def test_what_a_worker_triggered_before_it_died_is_heard(bench: Bench) -> None:
    with pytest.raises(GrpcCallError):
        bench.trigger("noted", hook="trigger_and_die")
    (event,) = bench.wait_notes(1)
    assert event["message"]["Meta"] == "last words"


@pytest.mark.parametrize("bench", [("--event-log",)], indirect=True)
def test_the_log_has_every_event_on_one_line(bench: Bench) -> None:
    bench.trigger("two\nlines", payload='{"a": "b\\nc"}')
    bench.broker.wait_for_log('"Type": "two\\nlines", "Meta": {"a": "b\\nc"}')
    assert bench.events()["log"] == {"delivered": 1}
    assert "goes nowhere" not in bench.broker.log


def test_a_webhook_that_fails_first_gets_each_event_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_receiver() as receiver:
        receiver.answer = lambda number: 503 if number < 2 else 201
        with running_bench(tmp_path, monkeypatch, "--event-webhook", receiver.url) as bench:
            bench.trigger("first")
            bench.trigger("second")
            bench.wait_count("webhook", "delivered", 2)
            assert bench.events()["webhook"] == {
                "delivered": 2, "retries": 2, "given_up": 0, "dropped": 0, "waiting": 0,
            }  # fmt: skip
            bench.broker.wait_for_log("answered 503; trying again")
            bench.broker.wait_for_log("takes events again")
            assert "between-us" not in bench.broker.log
        assert receiver.names == ["first", "first", "first", "second"]
        first, second, third, _ = receiver.posts
        assert first.path == "/events?token=between-us"
        assert first.headers["Content-Type"] == "application/json"
        assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == third.headers["Idempotency-Key"]
        assert first.headers["Idempotency-Key"] == first.document["triggered"]["id"]


def test_events_beyond_the_queue_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_receiver() as receiver:
        gate = Gate(tmp_path)

        def answer(_number: int) -> int:
            wait_until(lambda: gate_is_open(tmp_path), lambda: "the gate is open")
            return 200

        receiver.answer = answer
        flags = ("--event-webhook", receiver.url, "--event-queue", "3")
        with running_bench(tmp_path, monkeypatch, *flags) as bench:
            bench.trigger("burst", times=10)
            bench.wait_count("webhook", "dropped", 7)
            assert bench.events()["webhook"]["waiting"] == 3
            bench.broker.wait_for_log("an event is dropped: 3 events wait for webhook")
            gate.open()
            bench.wait_count("webhook", "delivered", 3)
        assert receiver.names == ["burst"] * 3


def gate_is_open(folder: Path) -> bool:
    return (folder / "gate.open").exists()


def test_what_is_triggered_while_the_broker_drains_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, many = Gate(tmp_path), 5_000
    headers = [("Event", "last"), ("Times", str(many)), *gate.headers()]
    with running_bench(tmp_path, monkeypatch, "--event-log") as bench, concurrent.futures.ThreadPoolExecutor() as pool:
        call = pool.submit(bench.broker.call, "trigger_when_the_gate_opens", bundle="events", headers=headers)
        gate.wait_entered()
        os.kill(bench.broker.pid, signal.SIGTERM)
        bench.broker.wait_for_log("draining: 1 dispatch under way")
        gate.open()
        assert call.result()
        assert bench.broker.wait() == 0
        assert bench.broker.log.count('"Type": "last"') == many


def test_events_that_wait_at_the_end_are_still_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_receiver() as receiver:
        receiver.answer = lambda number: 503 if number == 0 else 200
        flags = ("--event-webhook", receiver.url, "--event-grace", "30")
        with running_bench(tmp_path, monkeypatch, *flags) as bench:
            bench.trigger("late", times=20)
            receiver.wait(1)
            assert bench.broker.stop() == 0
        assert receiver.names == ["late"] * 21


def test_the_end_does_not_wait_for_a_receiver_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--event-webhook", "http://127.0.0.1:1/", "--event-grace", "0.05")
    with running_bench(tmp_path, monkeypatch, *flags) as bench:
        bench.trigger("lost", times=2)
        wait_until(lambda: bench.events()["webhook"]["retries"] > 0, lambda: str(bench.events()))
        assert bench.broker.stop() == 0
        assert "2 events were not delivered to webhook http://127.0.0.1:1/..." in bench.broker.log


def test_a_redis_stream_gets_every_event_also_after_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        flags = ("--redis", server.url, "--event-stream", "tykpy:events", "--event-stream-length", "1000")
        with running_bench(tmp_path, monkeypatch, *flags) as bench:
            bench.trigger("before")
            bench.wait_count("stream", "delivered", 1)
            server.stop()
            bench.trigger("during", times=2)
            wait_until(lambda: bench.events()["stream"]["retries"] > 0, lambda: str(bench.events()))
            server.start()
            bench.wait_count("stream", "delivered", 3)
            assert bench.events()["stream"]["given_up"] == 0
            bench.broker.wait_for_log("takes events again")
        with server.client() as client:
            entries: Any = client.xrange("tykpy:events")
        names = [fields[b"name"] for _, fields in entries]
        assert names == [b"during", b"during"]
        document = json.loads(entries[0][1][b"event"])
        assert document["triggered"]["id"].encode() == entries[0][1][b"id"]


def test_the_stream_may_be_in_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, "--cluster-enabled", "yes", port=free_port()) as server:
        take_all_slots(server)
        flags = ("--redis", f"redis+cluster://127.0.0.1:{server.port}", "--event-stream", "tykpy:events")
        with running_bench(tmp_path, monkeypatch, *flags) as bench:
            bench.trigger("one")
            bench.wait_count("stream", "delivered", 1)
        with server.client() as client:
            assert client.xlen("tykpy:events") == 1


def test_a_bundles_own_handler_replaces_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the handlers of all other bundles run."""
    other = SOURCE.replace("noted_async", "only_elsewhere")
    files = {"events.py": SOURCE, "other.py": other, "third.py": other}
    with running_bench(tmp_path, monkeypatch, files=files) as bench:
        bench.trigger("noted")
        bench.wait_count("handlers", "handled", 1)
        assert len(bench.notes) == 1
        bench.trigger("only_elsewhere")
        bench.wait_count("handlers", "handled", 2)
        assert len(bench.notes) == 3


def test_every_worker_finds_the_handler_of_the_events_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCE.replace("def write(spec, event):", "def write(spec, event):\n    event['pid'] = os.getpid()")
    files = {"events.py": source, "other.py": SOURCE}
    event = build_event("noted", {"Type": "AuthFailure"}, {"APIID": "api-1"})
    with running_bench(tmp_path, monkeypatch, files=files) as bench:
        bench.trigger("nobody")

        def both_have_it() -> bool:
            with contextlib.suppress(GrpcCallError), concurrent.futures.ThreadPoolExecutor(4) as callers:
                for call in [callers.submit(bench.broker.send_event, event) for _ in range(4)]:
                    call.result()
            return len({note["pid"] for note in bench.notes}) == 2

        wait_until(both_have_it, lambda: f"both workers handled it: {bench.broker.log}")


def test_redis_and_http_are_only_imported_when_configured() -> None:
    optional = {"redis", "http.client", "tykpy.broker.events.webhook"}
    check = f"import sys, tykpy.broker.app; sys.exit(bool({optional} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_an_unknown_event_handler_is_answered_and_logged_once(bench: Bench) -> None:
    for _ in range(4):
        with pytest.raises(GrpcCallError) as caught:
            bench.broker.send_event(build_event("no_such_handler", {"Type": "AuthFailure"}, {"APIID": "api-1"}))
        assert caught.value.code.name == "NOT_FOUND"
        assert "no_such_handler" in caught.value.message
    bench.broker.wait_for_log("no bundle has an @Event handler no_such_handler")
    assert bench.broker.log.count("no_such_handler") == 1
    bench.broker.send_event(build_event("noted", {"Type": "AuthFailure"}, {"APIID": "api-1"}))
    (event,) = bench.wait_notes(1)
    assert "triggered" not in event


@pytest.mark.parametrize(("environment", "file"), [({}, "event-log = true"), ({"TYKPY_EVENT_LOG": "1"}, "")])
def test_the_options_can_come_from_file_and_environment(tmp_path: Path, environment: dict[str, str], file: str) -> None:
    (tmp_path / "tykpy.toml").write_text(file)
    command = [TYKPY, "check-config", "--config", str(tmp_path / "tykpy.toml"), "--runtime-dir", str(tmp_path)]
    secrets = {"TYKPY_EVENT_WEBHOOK": "https://me:password@host/path-secret?token=secret"}
    done = subprocess.run(
        command, env={**os.environ, **environment, **secrets}, capture_output=True, text=True, check=False, timeout=60
    )
    assert re.search(r"^--event-log +true$", done.stdout, re.MULTILINE), done.stderr
    assert re.search(r"^--event-webhook +https://host/\.\.\.$", done.stdout, re.MULTILINE)
    assert "secret" not in done.stdout
