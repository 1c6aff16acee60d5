"""Builds the Go programs of tests/gateway: a gateway, a MessagePack-RPC client, and a signer of bundles.

Without Go the tests that need them are skipped; with `CI=true` they fail instead.
"""

import fcntl
import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parents[2]
MODULE: Final = ROOT / "tests" / "gateway"
PROGRAMS: Final = ROOT / ".tools" / "go"
BUILD_TIMEOUT: Final = 900
"""Seconds; the first build fetches modules and compiles grpc-go."""


@functools.cache
def go_program(name: str) -> str:
    """Return the path of a program, built now if its sources changed; skip or fail the test where there is no Go."""
    go = shutil.which("go")
    if go is None:
        _unavailable("there is no Go on this machine to build the test gateway with")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    target = PROGRAMS / name
    with (PROGRAMS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [go, "build", "-buildvcs=false", "-o", str(target), f"./cmd/{name}"]
        done = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return str(target)


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
