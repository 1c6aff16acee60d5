"""Hooks that hang in every possible way while others are called: each fails its own call only."""

import concurrent.futures
import json
import statistics
import time
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import PATIENCE, RunningBroker, running_broker, wait_until
from tests.support.peers.load import Load
from tykpy.client.grpc import GrpcCallError

WORKERS: Final = 2
TIMEOUT: Final = 1.0
"""The limit of each hook that hangs, in seconds."""
FLAGS: Final = ("--hang-grace", "0.1")
HOOKS: Final = """
import ctypes, os, signal
from tyk.decorators import Pre

def enter(request):
    with open(request.get_header("Entered"), "a") as entered:
        entered.write(f"{os.getpid()}\\n")

def spins():
    while True:
        pass

def stops():
    os.kill(os.getpid(), signal.SIGSTOP)

def sleeps_in_c():
    while True:  # a signal ends a sleep
        ctypes.CDLL(None).sleep(3600)

def sleeps_in_c_with_the_interpreter_lock():
    while True:  # a signal ends a sleep
        ctypes.PyDLL(None).sleep(3600)

@Pre
def echo(request, session, spec):
    request.add_header("Nonce", request.get_header("Nonce"))
    request.add_header("X-Worker", str(os.getpid()))
    return request, session
"""
HANG: Final = """
@Pre(timeout={timeout})
def {way}_{number}(request, session, spec):
    enter(request)
    {way}()
    return request, session
"""
"""Different hooks, because one that has hung three times is left alone."""
SPINS: Final = """
from tyk.decorators import Pre

@Pre{options}
def spins(request, session, spec):
    while True:
        pass
"""
FOR_EVER: Final = "3600"
"""Seconds: longer than any test waits."""
WAYS: Final = ("spins", "stops", "sleeps_in_c", "sleeps_in_c_with_the_interpreter_lock")


def hanging(times: int) -> dict[str, str]:
    hooks = (HANG.format(timeout=TIMEOUT, way=way, number=number) for way in WAYS for number in range(times))
    return {"hanging.py": HOOKS + "".join(hooks)}


def states(broker: RunningBroker) -> list[str]:
    return [row["state"] for row in broker.status()["workers"]]


def hang(broker: RunningBroker, hook: str, entered: Path) -> float:
    """Call a hook that hangs once; return how many seconds after its limit the call failed."""
    wait_until(lambda: states(broker) == ["ready"] * WORKERS, lambda: str(broker.status()))
    restarts = broker.status()["restarts"]
    start = time.monotonic()
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle="hanging", headers=[("Entered", str(entered))])
    late = time.monotonic() - start - TIMEOUT
    assert caught.value.code.name == "DEADLINE_EXCEEDED"
    assert hook in caught.value.message
    assert "exceeded in worker" in caught.value.message
    wait_until(lambda: broker.status()["restarts"] == restarts + 1, lambda: str(broker.status()))
    (pid,) = map(int, entered.read_text().splitlines())
    assert f"process {pid})" in caught.value.message
    wait_until(lambda: not psutil.pid_exists(pid), lambda: f"the end of {pid}")
    return late


def hang_under_load(folder: Path, times: int) -> None:
    with running_broker(folder, *FLAGS, workers=WORKERS, files=hanging(times)) as broker:
        for way in WAYS:
            with Load(broker.address, "echo", "hanging") as load:
                load.wait_for_more(100)
                late = [hang(broker, f"{way}_{number}", folder / f"{way}.{number}") for number in range(times)]
                load.wait_for_more(100)
            load.check()
            assert not load.errors
            middle, most = statistics.median(late) * 1e3, max(late) * 1e3
            print(f"{way}: {times} hangs, heard of {middle:.1f} ms (median) to {most:.1f} ms after the limit; {load}")
        broker.check_accounts()
        status = broker.status()
        assert status["restarts"] == len(WAYS) * times
        assert status["dispatches"]["expired"] == len(WAYS) * times
        assert status["dispatches"]["failed"] == 0


def test_a_hanging_hook_fails_only_its_own_call(tmp_path: Path) -> None:
    hang_under_load(tmp_path, 1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_100_hangs(tmp_path: Path) -> None:
    hang_under_load(tmp_path, 25)


@pytest.mark.parametrize(
    ("options", "listed", "flag"),
    [
        ("(timeout=0.3)", {}, FOR_EVER),
        ("", {"timeout": 0.3}, FOR_EVER),
        (f"(timeout={FOR_EVER})", {"timeout": 0.3}, FOR_EVER),
        ("", {}, "0.3"),
    ],
    ids=["decorator", "manifest", "manifest before decorator", "option"],
)
def test_a_limit_comes_from_manifest_decorator_or_broker(
    tmp_path: Path, options: str, listed: dict[str, float], flag: str
) -> None:
    """With any other limit the caller would wait for longer than this test."""
    manifest = {
        "file_list": ["middleware.py"],
        "custom_middleware": {"driver": "grpc", "pre": [{"name": "spins", **listed}]},
    }
    files = {"mine/middleware.py": SPINS.format(options=options), "mine/manifest.json": json.dumps(manifest)}
    flags = ("--timeout", flag, "--grace", "0", *FLAGS)
    with (
        concurrent.futures.ThreadPoolExecutor(1) as callers,
        running_broker(tmp_path, *flags, files=files) as broker,
    ):
        call = callers.submit(broker.call, "spins", bundle="mine", timeout=float(FOR_EVER))
        error = call.exception(PATIENCE)
        assert isinstance(error, GrpcCallError)
        assert error.code.name == "DEADLINE_EXCEEDED"
        assert "deadline exceeded in worker 0" in error.message
