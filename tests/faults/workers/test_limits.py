"""Limits of workers: memory, CPU time and descriptors, each used up by a hook; and the memory of a cgroup."""

import os
import re
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.cgroups import memory_cgroup
from tests.support.hooks import WELL
from tests.support.metrics import MeteredBroker
from tykpy.client.grpc import GrpcCallError

MIB = 1024 * 1024
MEMORY = 600 * MIB
FILES = 60
HOOKS = (
    WELL
    + """
import os, resource, threading, time
from tyk.decorators import Pre

kept = []

@Pre
def takes_at_once(request, session, spec):
    bytearray(2 << 30)
    return request, session

@Pre
def takes_bit_by_bit(request, session, spec):
    mine = []
    while True:
        mine.append("x" * 50 + str(len(mine)))

@Pre
async def takes_in_a_coroutine(request, session, spec):
    mine = []
    while True:
        mine.append(bytearray(1000))

@Pre
def opens_too_many(request, session, spec):
    mine = []
    while True:
        mine.append(open("/dev/null"))

@Pre(timeout=60)
def burns(request, session, spec):
    while True:
        pass

@Pre
def burns_a_little(request, session, spec):
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
def raises_its_limits(request, session, spec):
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
        request.add_header(str(kind), str(resource.getrlimit(kind)))
    return request, session
"""
)


def error_of(broker: RunningBroker, hook: str) -> str:
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle="hooks")
    return f"{caught.value.code.name}: {caught.value.message}"


def worker_of(broker: RunningBroker) -> str:
    return broker.call("well", bundle="hooks").request.set_headers["X-Worker"]


@pytest.mark.parametrize("hook", ["takes_at_once", "takes_bit_by_bit", "takes_in_a_coroutine"])
def test_more_memory_than_allowed_is_the_error_of_that_call(tmp_path: Path, hook: str) -> None:
    with running_broker(tmp_path, "--limit-memory", str(MEMORY), files={"hooks.py": HOOKS}) as broker:
        before = worker_of(broker)
        for _ in range(3):
            said = error_of(broker, hook)
            assert said.startswith(
                f"INTERNAL: hook {hook} of bundle hooks.py failed: MemoryError: more than the {MEMORY} "
            )
            assert "--limit-memory" in said
            assert re.search(r"hooks\.py:\d+\)$", said)
        assert worker_of(broker) == before
        assert broker.status()["restarts"] == 0


def test_more_files_than_allowed_are_the_error_of_that_call(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--limit-files", str(FILES), files={"hooks.py": HOOKS}) as broker:
        before = worker_of(broker)
        for _ in range(3):
            assert "failed: OSError: [Errno 24] Too many open files: '/dev/null'" in error_of(broker, "opens_too_many")
        assert worker_of(broker) == before
        assert broker.status()["restarts"] == 0


def test_a_hook_that_uses_up_its_cpu_time_has_killed_its_worker(tmp_path: Path) -> None:
    flags = ("--limit-cpu", "1", "--timeout", "60")
    with running_broker(tmp_path, *flags, files={"hooks.py": HOOKS}) as broker:
        before = worker_of(broker)
        for _ in range(2):
            said = error_of(broker, "burns")
            assert "was ended by SIGXCPU (its CPU time was used up: --limit-cpu)" in said
        # Twice is enough: it is to blame, as for any crash of its own.
        assert error_of(broker, "burns").startswith("INTERNAL: quarantined")
        assert worker_of(broker) != before
        assert "in burns" in broker.log


def test_a_worker_that_lives_long_does_not_use_up_its_cpu_time(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--limit-cpu", "1", files={"hooks.py": HOOKS}) as broker:
        workers = {broker.call("burns_a_little", bundle="hooks").request.set_headers["X-Worker"] for _ in range(4)}
        assert len(workers) == 1


def test_limits_are_for_good_and_for_every_worker(tmp_path: Path) -> None:
    flags = ("--limit-memory", str(MEMORY), "--limit-files", str(FILES))
    with running_broker(tmp_path, *flags, files={"hooks.py": HOOKS}) as broker:
        for _ in range(2):
            headers = broker.call("raises_its_limits", bundle="hooks").request.set_headers
            assert sorted(headers.values()) == sorted([str((MEMORY, MEMORY)), str((FILES, FILES))])
            pid = int(worker_of(broker))
            os.kill(pid, 9)
            wait_until(lambda: int(worker_of(broker)) != pid, lambda: broker.log)  # noqa: B023


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--limit-memory", "1000000", "--limit-memory 1000000 is too low: a worker needs "),
        ("--limit-files", "3", "--limit-files 3 is too low: a worker needs "),
    ],
)
def test_a_limit_with_which_no_worker_can_start(tmp_path: Path, flag: str, value: str, said: str) -> None:
    broker = RunningBroker(tmp_path, flag, value).unready()
    with broker:
        assert broker.wait() == 3
        assert f"no worker can start: LimitError: {said}" in broker.log


def test_what_a_worker_says_it_needs_is_enough(tmp_path: Path) -> None:
    """For a bundle that itself needs nothing."""
    flags = {"--limit-memory": "1", "--limit-files": "1"}
    for flag in flags:
        broker = RunningBroker(tmp_path, flag, "1").unready()
        with broker:
            broker.wait()
            flags[flag] = re.findall(rf"{flag} 1 is too low: a worker needs (\d+)", broker.log)[0]
    with running_broker(
        tmp_path, *(word for pair in flags.items() for word in pair), "--threads", "1", files={"hooks.py": HOOKS}
    ) as broker:
        assert worker_of(broker)


def test_a_bundle_that_needs_more_memory_to_load_says_so(tmp_path: Path) -> None:
    files = {"hooks.py": HOOKS, "large.py": "table = bytearray(2 << 30)\n"}
    with running_broker(tmp_path, "--limit-memory", str(MEMORY), files=files) as broker:
        assert f"MemoryError: more than the {MEMORY} bytes of --limit-memory" in broker.log
        assert worker_of(broker)


def test_a_worker_that_the_kernel_killed_is_counted_as_oom(tmp_path: Path) -> None:
    broker = MeteredBroker(tmp_path)
    broker.add_file("hooks.py", HOOKS)
    with broker, memory_cgroup(64 * MIB) as cgroup:
        worker = worker_of(broker)
        cgroup.add(int(worker))
        said = error_of(broker, "takes_bit_by_bit")
        assert "was ended by SIGKILL (out of memory: the machine or its container)" in said
        assert worker_of(broker) != worker
        broker.wait_for("tykpy_worker_restarts_total", 0, reason="oom")
        assert broker.scrape()("tykpy_worker_restarts_total") == 1


def test_plugins_cannot_gain_privileges(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": HOOKS}) as broker:
        for pid in (broker.pid, int(worker_of(broker))):
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
