"""`tyk.current()` and the context of a dispatch, in the hooks of a real broker."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker, running_broker
from tykpy.commands.objects import build_event

SOURCE = """
import asyncio, contextvars, decimal, json, os, signal, threading
from pathlib import Path
from tyk import current
from tyk.decorators import Event, Pre, Post, on_start
from tyk.errors import NoCallError

left = contextvars.ContextVar("left", default="nothing")
left.set("by the import")

@on_start
def start():
    left.set("by the start")
    try:
        current()
    except NoCallError:
        return
    raise AssertionError("a start has no call")

def told():
    call = current()
    return json.dumps({
        "ids": [call.request_id, call.api_id, call.org_id],
        "hook": [call.bundle, call.hook, call.hook_type],
        "trace": [call.trace_id, call.span_id],
        "in_time": 0 < call.time_left <= 30,
        "attempt": call.attempt,
    })

@Pre(timeout=9)
def plain(request, session, spec):
    request.add_header("Told", told())
    return request, session

@Pre(timeout=9)
async def in_a_task(request, session, spec):
    async def task():
        return told()
    request.add_header("Told", await asyncio.create_task(task()))
    return request, session

@Pre(timeout=9)
async def in_a_thread(request, session, spec):
    request.add_header("Told", await asyncio.to_thread(told))
    return request, session

@Post(timeout=9)
def first_of_chain(request, session, spec):
    request.add_header("First", told())
    return request, session

@Post(timeout=9)
async def second_of_chain(request, session, spec):
    request.add_header("Second", told())
    return request, session

@Event(timeout=9)
def on_event(event, spec):
    Path(event.message.Meta.File).write_text(told())

@Pre(idempotent=True)
def dies_once(request, session, spec):
    if current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    request.add_header("Told", told())
    return request, session

def look_and_leave():
    found = f"{left.get()} {decimal.getcontext().prec}"
    left.set("by a hook")
    decimal.getcontext().prec = 3
    return found

@Pre
def leaves(request, session, spec):
    request.add_header("Told", f"{os.getpid()} {threading.get_ident()} {look_and_leave()}")
    return request, session

@Pre
async def leaves_async(request, session, spec):
    request.add_header("Told", f"{os.getpid()} {threading.get_ident()} {look_and_leave()}")
    return request, session
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = [("X-Request-Id", "of this request"), ("Traceparent", f"00-{TRACE}-{SPAN}-01")]
SPEC = {"APIID": "an api", "OrgID": "an org"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("current"), files={"mine.py": SOURCE}) as broker:
        yield broker


def expected(hook: str, hook_type: str = "Pre", **others: Any) -> dict[str, Any]:
    return {
        "ids": ["of this request", "an api", "an org"],
        "hook": ["mine.py", hook, hook_type],
        "trace": [TRACE, SPAN],
        "in_time": True,
        "attempt": 1,
        **others,
    }


@pytest.mark.parametrize("hook", ["plain", "in_a_task", "in_a_thread"])
def test_hooks_know_their_call(broker: RunningBroker, hook: str) -> None:
    answer = broker.call(hook, bundle="mine", headers=HEADERS, spec=SPEC)
    assert json.loads(answer.request.set_headers["Told"]) == expected(hook)


def test_each_hook_of_a_chain_knows_itself(broker: RunningBroker) -> None:
    told = broker.call("*", bundle="mine", hook_type="Post", headers=HEADERS, spec=SPEC).request.set_headers
    assert json.loads(told["First"]) == expected("first_of_chain", "Post")
    assert json.loads(told["Second"]) == expected("second_of_chain", "Post")


def test_event_handlers_know_their_call(broker: RunningBroker, tmp_path: Path) -> None:
    broker.send_event(build_event("on_event", {"Meta": {"File": str(tmp_path / "told")}}, SPEC))
    told = json.loads((tmp_path / "told").read_text())
    assert told == expected("on_event", "Event", ids=["", "an api", "an org"], trace=["", ""])


def test_a_hook_that_runs_again_knows_it(broker: RunningBroker) -> None:
    answer = broker.call("dies_once", bundle="mine", headers=HEADERS, spec=SPEC)
    assert json.loads(answer.request.set_headers["Told"])["attempt"] == 2


@pytest.mark.parametrize("hook", ["leaves", "leaves_async"])
def test_nothing_in_the_context_reaches_another_call(broker: RunningBroker, hook: str) -> None:
    told = [broker.call(hook, bundle="mine").request.set_headers["Told"].split(" ", 2) for _ in range(3)]
    assert [found for _, _, found in told] == ["nothing 28"] * 3
    assert len({(pid, thread) for pid, thread, _ in told}) == 1
    assert all(int(pid) != os.getpid() for pid, _, _ in told)
