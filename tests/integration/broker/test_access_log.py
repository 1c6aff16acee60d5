"""`--access-log`: a record for each dispatch that has ended; through a real broker."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.broker import RunningBroker, wait_until
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

SOURCE: Final = """
import time
from tyk.decorators import Hook


@Hook
def quick(request, session, spec):
    return request, session


@Hook
def sleeps(request, session, spec):
    time.sleep(0.3)
    return request, session


@Hook
def fails(request, session, spec):
    raise LookupError("no such tenant")
"""
HOOKS: Final = ("quick", "sleeps", "fails", "missing\nforged")


def call(broker: RunningBroker, hook: str) -> int:
    """Dispatch a call; returns the size of the request."""
    message = build_object(CallDescription(hook, spec={"APIID": "a1"})).SerializeToString()
    with GrpcClient(broker.address) as client:
        try:
            client.call("/coprocess.Dispatcher/Dispatch", message)
        except GrpcCallError:
            assert hook not in ("quick", "sleeps")
    return len(message)


def logged(folder: Path, mode: str) -> tuple[list[dict[str, Any]], int]:
    """Return what a broker logs of a call of each hook, and the size of the first request."""
    broker = RunningBroker(folder, "--access-log", mode, env={"TYKPY_LOG_FORMAT": "json"})
    broker.add_file("mine.py", SOURCE)
    with broker:
        size, *_ = [call(broker, hook) for hook in HOOKS]
        broker.stop()
        records = [json.loads(line) for line in broker.log.splitlines() if line.startswith("{")]
    return [one for one in records if one["logger"] == "tykpy.dispatch"], size


def test_all_has_every_dispatch(tmp_path: Path) -> None:
    found, size = logged(tmp_path, "all")
    assert [(one["hook"], one["code"]) for one in found] == [
        ("quick", "OK"), ("sleeps", "OK"), ("fails", "INTERNAL"), ("missing\nforged", "NOT_FOUND"),
    ]  # fmt: skip
    quick, sleeps, fails, _ = found
    assert {
        "level": "info", "process": "broker", "bundle": "mine.py", "type": "Pre", "api_id": "a1", "worker": 0,
        "attempts": 1, "request_bytes": size,
    }.items() <= quick.items()  # fmt: skip
    assert quick["answer_bytes"] > 0
    assert sleeps["duration_ms"] >= sleeps["hook_ms"] >= 300
    assert sleeps["queue_ms"] == pytest.approx(sleeps["duration_ms"] - sleeps["hook_ms"], abs=0.01)
    assert (fails["level"], fails["answer_bytes"]) == ("warning", 0)


@pytest.mark.parametrize(
    ("mode", "hooks"), [("off", []), ("errors", ["fails", "missing\nforged"]), ("slow:250ms", ["sleeps"])]
)
def test_other_modes_have_some_or_none(tmp_path: Path, mode: str, hooks: list[str]) -> None:
    found, _ = logged(tmp_path, mode)
    # On a busy machine others may be slow as well.
    assert [one["hook"] for one in found if not mode.startswith("slow") or one["hook"] == "sleeps"] == hooks
    assert all(one["duration_ms"] >= 250 for one in found if mode.startswith("slow"))


def test_ids_of_request_and_trace_are_logged(tmp_path: Path) -> None:
    """Of the request's headers and of the call's metadata, with tracing off."""
    first, second = f"00-{'a' * 32}-{'b' * 16}-00", f"00-{'c' * 32}-{'d' * 16}-01"
    broker = RunningBroker(tmp_path, "--access-log", "all", env={"TYKPY_LOG_FORMAT": "json"})
    broker.add_file("mine.py", SOURCE)
    with broker, GrpcClient(broker.address) as client:

        def call(headers: list[tuple[str, str]], metadata: dict[str, str]) -> None:
            item = build_object(CallDescription("quick", headers=headers))
            client.call("/coprocess.Dispatcher/Dispatch", item.SerializeToString(), metadata=metadata)

        call([("X-Request-Id", "r1"), ("Traceparent", first)], {})
        call([("x-request-id", "r" * 5000)], {"x-request-id": "r2", "traceparent": second})
        call([], {"x-request-id": "r3"})
        call([], {})
        client.close()
        broker.stop()
        records = [json.loads(line) for line in broker.log.splitlines() if '"tykpy.dispatch"' in line]
    found = [tuple(one.get(name) for name in ("request_id", "trace_id", "span_id")) for one in records]
    assert found == [
        ("r1", "a" * 32, "b" * 16),
        ("r" * 256 + "... (4,744 more characters)", "c" * 32, "d" * 16),
        ("r3", None, None),
        (None, None, None),
    ]


def test_a_dispatch_that_is_refused_is_logged(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, "--access-log", "errors", env={"TYKPY_LOG_FORMAT": "json"})
    broker.add_file("mine.py", SOURCE)
    with broker, GrpcClient(broker.address) as client:
        with pytest.raises(GrpcCallError):
            client.call("/coprocess.Dispatcher/Dispatch", b"\xff\xff")
        wait_until(lambda: "INVALID_ARGUMENT" in broker.log, lambda: broker.log)
        record = next(json.loads(line) for line in broker.log.splitlines() if "INVALID_ARGUMENT" in line)
    assert (record["bundle"], record["hook"], record["attempts"], "worker" in record) == ("", "", 0, False)
