"""No descriptors, memory, processes or disk left: a clear error, workers that serve on, and recovery by itself."""

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pytest

from tests.support.accounts import OTHER_USER, needs_root, reachable, run_as
from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.load import Load
from tykpy.client.grpc import GrpcCallError, GrpcClient

WORKERS: Final = 2
SAYS: Final = """
import sys
from tyk.decorators import Pre

@Pre
def says(request, session, spec):
    print("a line that nobody will read")
    print("and another", file=sys.stderr, flush=True)
    return request, session
"""
SMALL_DISK: Final = 65536
"""Bytes."""
MANIFEST: Final = """
{"file_list": ["middleware.py", "data.bin"], "custom_middleware": {"driver": "grpc", "pre": [{"name": "unpacked"}]}}
"""
SMALLER_THAN_A_RING: Final = 1024 * 1024
"""Bytes: a file, and so shared memory, of a process cannot be larger."""


SetLimit = Callable[[int, int, int], int]
"""Process, kind, soft limit; returns the limit before."""


class Shortage(NamedTuple):
    """What runs out."""

    of: Callable[[RunningBroker], int]
    """The process that runs out of it."""
    resource: int
    left: int
    said: str
    """What the log says about it."""


def broker_itself(broker: RunningBroker) -> int:
    return broker.pid


def zygote_of(broker: RunningBroker) -> int:
    """The process that forks workers."""
    worker: int = broker.status()["workers"][0]["pid"]
    return int(psutil.Process(worker).ppid())


DESCRIPTORS: Final = Shortage(broker_itself, resource.RLIMIT_NOFILE, 0, "Too many open files")
NOT_EVEN_THE_RESERVE: Final = Shortage(broker_itself, resource.RLIMIT_NOFILE, 0, "Too many open files")
"""Neither may the broker reopen what it holds for the next worker; see test_few_descriptors.py."""
MEMORY: Final = Shortage(
    broker_itself, resource.RLIMIT_FSIZE, SMALLER_THAN_A_RING, "bytes of shared memory: File too large"
)
PROCESSES: Final = Shortage(zygote_of, resource.RLIMIT_NPROC, 1, "Resource temporarily unavailable")


def next_descriptor(pid: int) -> int:
    """Return the number that the process would get."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


@contextlib.contextmanager
def lack_of(shortage: Shortage, pid: int, set_limit: SetLimit) -> Iterator[None]:
    """Give the process no more of it until the end of the block."""
    left = next_descriptor(pid) if shortage is DESCRIPTORS else shortage.left
    before = set_limit(pid, shortage.resource, left)
    try:
        yield
    finally:
        set_limit(pid, shortage.resource, before)


def limit(pid: int, kind: int, soft: int) -> int:
    """Set a soft limit; return the one before."""
    before, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (soft, hard))
    return before


def limit_as_other(pid: int, kind: int, soft: int) -> int:
    """Set a soft limit of another process from within it, as the only one who may."""
    code = f"from tests.faults.load.test_exhaustion import limit; print(limit({pid}, {kind}, {soft}))"
    return int(run_as(OTHER_USER, [sys.executable, "-c", code]))


@contextlib.contextmanager
def broker_of_two(folder: Path, *flags: str) -> Iterator[RunningBroker]:
    broker = RunningBroker(folder, *flags, workers=WORKERS)
    broker.add_file("hooks.py", SOURCE)
    broker.add_file("says.py", SAYS)
    with broker:
        yield broker


@contextlib.contextmanager
def lines_into(broker: RunningBroker, path: Path) -> Iterator[None]:
    """Restart the broker with its log going to this file until the end of the block."""
    assert broker.stop() == 0
    broker.forget_status()
    log, broker.log_path = broker.log_path, path
    try:
        broker.start().wait_ready()
        yield
        assert broker.stop() == 0
    finally:
        broker.log_path = log


@contextlib.contextmanager
def broker_of_nobody_else() -> Iterator[RunningBroker]:
    """A broker whose user is not root, to whom no limit applies, and has no other process."""
    if os.geteuid() == 0:
        needs_root()
    with tempfile.TemporaryDirectory(prefix="tykpy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        flags = ("--user", str(OTHER_USER), "--group", str(OTHER_USER)) if os.geteuid() == 0 else ()
        broker = RunningBroker(folder, *flags, workers=WORKERS)
        broker.add_file("hooks.py", SOURCE)
        if os.geteuid() == 0:
            broker.prefix = reachable([])
            os.chown(broker.runtime, OTHER_USER, OTHER_USER)
            (broker.runtime / "notify").chmod(0o777)
        with broker:
            yield broker


def on_a_small_disk(folder: Path) -> list[str]:
    """Return the prefix of a command that is to find no more than `SMALL_DISK` bytes of disk in this folder."""
    namespaces = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mount = f'mount -t tmpfs -o size={SMALL_DISK},mode=0700 none "$0" && exec "$@"'
    prefix = [*namespaces, "sh", "-c", mount, str(folder)]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    return prefix


def states(broker: RunningBroker) -> list[str]:
    return [row["state"] for row in broker.status()["workers"]]


@pytest.mark.parametrize("shortage", [NOT_EVEN_THE_RESERVE, MEMORY], ids=lambda one: one.said)
def test_a_worker_that_cannot_be_replaced_is_replaced_later(tmp_path: Path, shortage: Shortage) -> None:
    with broker_of_two(tmp_path) as broker:
        replace_when_there_is_enough_again(broker, shortage)


def test_a_worker_that_cannot_be_forked_is_replaced_later() -> None:
    with broker_of_nobody_else() as broker:
        replace_when_there_is_enough_again(broker, PROCESSES, limit_as_other if os.geteuid() == 0 else limit)


def replace_when_there_is_enough_again(broker: RunningBroker, shortage: Shortage, set_limit: SetLimit = limit) -> None:
    """Meanwhile the other worker serves on."""
    with broker.admin() as admin:
        with Load(broker.address, "echo_with_worker", "hooks") as load:
            load.wait_for_more(50)
            with lack_of(shortage, shortage.of(broker), set_limit):
                victim = admin.call("status")["workers"][0]["pid"]
                os.kill(victim, signal.SIGKILL)
                broker.wait_for_log("did not start: no process can be started: ")
                broker.wait_for_log("next try in 0.2 s")
                load.wait_for_more(100)
            wait_until(
                lambda: [row["state"] for row in admin.call("status")["workers"]] == ["ready"] * WORKERS,
                lambda: broker.log,
            )
            load.wait_for_more(50)
        load.check()
        assert shortage.said in broker.log
        assert all("was ended by SIGKILL while it ran this hook" in error for error in load.errors), broker.log
        assert len(load.errors) <= 1


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_running_out_of_descriptors_delays_new_connections_only(tmp_path: Path, event_loop: str) -> None:
    with broker_of_two(tmp_path, "--event-loop", event_loop) as broker:
        with Load(broker.address, "echo_with_worker", "hooks") as load:
            load.wait_for_more(50)
            with lack_of(DESCRIPTORS, broker.pid, limit):
                for _ in range(20):
                    with pytest.raises((OSError, GrpcCallError)), GrpcClient(broker.address) as client:
                        client.call("/grpc.health.v1.Health/Check", b"", timeout=0.05)
                broker.wait_for_log("no descriptor can be had (Too many open files; the limit of this process is")
                load.wait_for_more(100)
            broker.wait_for_log("descriptors are there again")
        load.check()
        assert not load.errors
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        assert broker.log.count("no descriptor can be had") == 1
        assert "Traceback" not in broker.log
        assert broker.status()["restarts"] == 0


def test_big_messages_pass_without_new_shared_memory(tmp_path: Path) -> None:
    # For memory that was made at the start and cannot be filled see tests/unit/broker/test_big_bodies.py.
    with broker_of_two(tmp_path) as broker, lack_of(MEMORY, broker.pid, limit):
        for size in (2 * SMALLER_THAN_A_RING, 3 * SMALLER_THAN_A_RING):
            answer = broker.call("same_body", hook_type="Post", bundle="hooks", body=bytes(size))
            assert len(answer.request.raw_body) == size


def test_a_log_on_a_full_disk_costs_the_log_only(tmp_path: Path) -> None:
    with broker_of_two(tmp_path) as broker, lines_into(broker, Path("/dev/full")):
        with Load(broker.address, "echo_with_worker", "hooks") as load:
            broker.call("says", bundle="says")
            with pytest.raises(GrpcCallError, match="of no use"):
                broker.call("raises", bundle="hooks")
            os.kill(broker.status()["workers"][0]["pid"], signal.SIGKILL)
            wait_until(lambda: broker.status()["restarts"] == 1, lambda: str(broker.status()))
            wait_until(lambda: states(broker) == ["ready"] * WORKERS, lambda: str(broker.status()))
            load.wait_for_more(50)
        load.check()
        assert len(load.errors) <= 1


def test_a_bundle_without_disk_space_is_named_and_others_served(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.add_file("hooks.py", SOURCE)
    with zipfile.ZipFile(broker.bundles / "big.zip", "w") as archive:
        archive.writestr("manifest.json", MANIFEST)
        archive.writestr("middleware.py", SOURCE.replace("def add_header", "def unpacked"))
        archive.writestr("data.bin", bytes(2 * SMALL_DISK))
    unpacked = broker.runtime / "unpacked"
    unpacked.mkdir()
    broker.prefix = on_a_small_disk(unpacked)
    with broker:
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        with pytest.raises(GrpcCallError, match="No space left on device"):
            broker.call("unpacked", bundle="big.zip")
        with broker.admin() as admin:
            (big,) = [bundle for bundle in admin.call("hooks") if bundle["name"].startswith("big")]
        assert "No space left on device" in big["error"]["message"]
