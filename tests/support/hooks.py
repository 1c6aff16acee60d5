"""A bundle of hooks for tests of the whole broker, and the gates through which a test controls them."""

from pathlib import Path

from tests.support.broker import wait_until

SOURCE = '''
import asyncio, os, signal, sys, threading, time
from tyk.decorators import Pre, Post, PostKeyAuth, CustomKeyCheck, Response, Hook, Event
from gateway import TykGateway as tyk

def enter_gate(request):
    """Report that the hook runs (a line with process and thread), then wait until the test opens the gate."""
    with open(request.get_header("Entered"), "a") as entered:
        entered.write(f"{os.getpid()} {threading.get_ident()} {request.get_header('Name')}\\n")
    while not os.path.exists(request.get_header("Gate")):
        time.sleep(0.002)

@Pre
def add_header(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
def echo(request, session, spec):
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session

@Pre
def echo_with_worker(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    return echo(request, session, spec)

@Pre
def gated(request, session, spec):
    enter_gate(request)
    return request, session

@Pre(idempotent=True)
def gated_again(request, session, spec):
    enter_gate(request)
    return request, session

@Pre
async def gated_async(request, session, spec):
    await asyncio.to_thread(enter_gate, request)
    return request, session

@Pre
def busy_forever(request, session, spec):
    while True:
        pass

@Pre(timeout=0.3)
def busy_too_long(request, session, spec):
    while True:
        time.sleep(0)

@Pre
async def waits_forever(request, session, spec):
    await asyncio.Event().wait()

@Pre
def raises(request, session, spec):
    raise ValueError("of no use")

@Pre
def leaves(request, session, spec):
    sys.exit(7)

@Pre
def dies(request, session, spec):
    os._exit(9)

@Pre
def kills_itself(request, session, spec):
    os.kill(os.getpid(), signal.SIGKILL)

@Pre
def prints(request, session, spec):
    print("a line from the plugin")
    print("another, to standard error", file=sys.stderr)
    os.write(1, b"and one behind Python's back\\n")
    return request, session

@Pre
def wrong_return(request, session, spec):
    return 42

@Post
def grow(request, session, spec):
    request.object.raw_body = request.object.raw_body * 2
    return request, session

@Post
def same_body(request, session, spec):
    return request, session

@CustomKeyCheck
def check_key(request, session, metadata, spec):
    if request.get_header("Authorization") != "secret":
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "who are you?"
        return request, session, metadata
    session.rate = 1000.0
    metadata["token"] = "secret"
    return request, session, metadata

@PostKeyAuth
def tag(request, session, metadata, spec):
    request.add_header("X-Alias", session.alias)
    return request, session, metadata

@Response
def stamp(request, response, session, metadata, spec):
    response.headers["X-Stamp"] = "stamped"
    response.raw_body = b"changed " + response.raw_body
    return response

@Event
def on_failure(event, spec):
    tyk.store_data("last-event", event.message.Type, 0)

@Pre
def last_event(request, session, spec):
    request.add_header("Last-Event", tyk.get_data("last-event").decode())
    return request, session

@Pre
def store(request, session, spec):
    tyk.store_data("key", request.get_header("Value"), 60)
    return request, session

@Pre
def load(request, session, spec):
    request.add_header("Value", tyk.get_data("key").decode())
    return request, session
'''
WELL = """
import asyncio, os
from tyk.decorators import Pre

@Pre
def well(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
async def well_async(request, session, spec):
    await asyncio.sleep(0)
    return well(request, session, spec)
"""
"""The start of a bundle whose other hooks do harm: two that answer with the number of their process."""


class Gate:
    """Holds gated hooks until it is opened, and records who has entered."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._entered = folder / f"{name}.entered"
        self._opened = folder / f"{name}.open"
        self._entered.touch()

    def headers(self, name: str = "-") -> list[tuple[str, str]]:
        """The request headers that a gated hook reads."""
        return [("Entered", str(self._entered)), ("Gate", str(self._opened)), ("Name", name)]

    @property
    def entered(self) -> list[tuple[int, int, str]]:
        """Process, thread and name of every call that has entered, in order."""
        rows = [line.split() for line in self._entered.read_text().splitlines()]
        return [(int(pid), int(thread), name) for pid, thread, name in rows]

    def wait_entered(self, count: int = 1) -> list[tuple[int, int, str]]:
        """Wait until so many calls have entered."""
        wait_until(lambda: len(self.entered) >= count, lambda: f"{count} calls in {self._entered}")
        return self.entered

    def open(self) -> None:
        """Let all calls through, now and later."""
        self._opened.touch()
