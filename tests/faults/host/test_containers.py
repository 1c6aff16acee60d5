"""A broker that is process 1 of a namespace, as in a container."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE
from tykpy.ipc.title import ZYGOTE

AS_INIT = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
LEAVES_ORPHANS = """
import os, subprocess
from tyk.decorators import Pre

@Pre
def leaves_orphans(request, session, spec):
    for number in range(10):
        # The shell does not wait for what it starts; that ends once the shell is gone.
        orphan = "while kill -0 $PARENT; do sleep 0.01; done 2>/dev/null; touch $FOLDER/$NUMBER"
        subprocess.run(
            ["sh", "-c", f"export PARENT=$$; sh -c '{orphan}' & exit 0"], check=True,
            env={**os.environ, "FOLDER": request.get_header("Folder"), "NUMBER": str(number)},
        )
    return request, session
"""


def needs_namespaces() -> None:
    """Skip the test if processes cannot have their own namespace."""
    try:
        subprocess.run([*AS_INIT, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces of processes here: {error}")


@contextlib.contextmanager
def stopped_at_the_end(broker: RunningBroker) -> Iterator[int]:
    """Yield the broker's pid outside of its namespace: `unshare`, its parent, does not pass signals on."""
    (init,) = (child.pid for child in psutil.Process(broker.pid).children())
    try:
        yield init
    finally:
        os.kill(init, signal.SIGTERM)
        broker.wait()


def children(pid: int) -> dict[int, tuple[str, str]]:
    """Return the children of a process, with title and state, without those that are gone meanwhile."""
    found = {}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[child.pid] = (child.name(), child.status())
    return found


def zombies(pid: int) -> list[int]:
    return [child for child, (_, state) in children(pid).items() if state == psutil.STATUS_ZOMBIE]


def worker_pid(broker: RunningBroker) -> str:
    return str(broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"])


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_process_1_waits_for_orphans_and_is_not_replaced(tmp_path: Path, event_loop: str) -> None:
    needs_namespaces()
    broker = RunningBroker(tmp_path, "--event-loop", event_loop)
    broker.prefix = AS_INIT
    broker.add_file("hooks.py", SOURCE)
    broker.add_file("orphans.py", LEAVES_ORPHANS)
    left = tmp_path / "left"
    left.mkdir()
    with broker, stopped_at_the_end(broker) as init:
        assert broker.status()["pid"] == 1

        broker.call("leaves_orphans", bundle="orphans", headers=[("Folder", str(left))])
        wait_until(lambda: len(list(left.iterdir())) == 10, lambda: "orphans that have run")
        wait_until(lambda: not zombies(init), lambda: str(zombies(init)))

        os.kill(init, signal.SIGUSR2)
        wait_until(lambda: bool(broker.status()["upgrade"]), lambda: broker.log)
        assert broker.status()["pid"] == 1
        assert "process 1 of a container" in broker.status()["upgrade"]["why"]

        # How workers and zygotes end is still known.
        first = worker_pid(broker)
        (zygote,) = (child for child, (name, _) in children(init).items() if name == ZYGOTE)
        (worker,) = children(zygote)
        os.kill(worker, signal.SIGSEGV)
        broker.wait_for_log(f"(process {first}) was ended by SIGSEGV")
        worker_pid(broker)
        os.kill(zygote, signal.SIGKILL)
        broker.wait_for_log("the process that forks workers has ended")
        wait_until(lambda: not zombies(init), lambda: str(zombies(init)))
        assert worker_pid(broker)

    assert broker.wait() == 0
