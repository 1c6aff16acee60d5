"""Builds the Go programs of tests/gateway (a gateway, a MessagePack-RPC client, a signer of bundles), and grpcurl.

Without Go the tests that need them are skipped; with `CI=true` they fail instead.
"""

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.support.root import ROOT

MODULE: Final = ROOT / "tests" / "gateway"
PROGRAMS: Final = ROOT / ".tools" / "go"
GRPCURL: Final = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
GRPCURL_VERSION: Final = "v1.9.4"
BUILD_TIMEOUT: Final = 900
"""Seconds; the first build fetches modules and compiles grpc-go."""


@functools.cache
def go_program(name: str) -> str:
    """Return the path of a program, built if its sources changed; skip or fail the test without Go."""
    with _locked(name) as target:
        _run_go("build", "-buildvcs=false", "-o", str(target), f"./cmd/{name}")
    return str(target)


@functools.cache
def grpcurl() -> str:
    """Return the path of grpcurl, built if it is missing; skip or fail the test without Go."""
    return go_tool(GRPCURL, GRPCURL_VERSION)


@functools.cache
def go_tool(package: str, version: str) -> str:
    """Return the path of somebody else's program, built if it is missing; skip or fail the test without Go."""
    name = package.rpartition("/")[2]
    with _locked(f"{name}-{version}") as target:
        if not target.exists():
            _run_go("install", f"{package}@{version}")
            (PROGRAMS / name).rename(target)
    return str(target)


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """Prevent two test runs from building one program at the same time."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    with (PROGRAMS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield PROGRAMS / name


def _run_go(*command: str) -> None:
    go = shutil.which("go")
    if go is None:
        _unavailable("there is no Go on this machine to build a program of the tests with")
    environment = {**os.environ, "GOBIN": str(PROGRAMS)}
    done = subprocess.run(
        [go, *command], cwd=MODULE, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
