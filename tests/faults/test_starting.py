"""Workers that do not get ready in time, and a listening socket that outlives the broker."""

import os
import socket
import sys
import threading
from pathlib import Path

from broker.grpc.client import GrpcClient
from commands.objects import CallDescription, build_object
from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE
from tests.support.load import METHOD
from tyk.proto.coprocess_object_pb2 import Object

HANGS_AT_IMPORT = "import time\ntime.sleep(3600)\n"
AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""sd_listen_fds(3): the first descriptor is 3, and the number of the process says whom they are for."""


def test_workers_that_are_not_ready_in_time_are_a_reason_to_end(tmp_path: Path) -> None:
    with RunningBroker(tmp_path, "--ready-timeout", "0.5").unready() as broker:
        broker.add_file("slow.py", HANGS_AT_IMPORT)
        assert broker.wait() == 3
        assert "worker 0 did not start: not ready after 0.5 s (--ready-timeout); next try in" in broker.log
        assert "no worker can start: not ready after 0.5 s" in broker.log


def test_one_that_is_never_ready_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    first_only = (
        "import os, time\n"
        "try:\n"
        f"    os.close(os.open({str(tmp_path / 'first')!r}, os.O_CREAT | os.O_EXCL))\n"
        "except FileExistsError:\n"
        "    time.sleep(3600)\n"
    )
    with RunningBroker(tmp_path, "--ready-timeout", "5", workers=2).unready() as broker:
        broker.add_file("hooks.py", SOURCE)
        broker.add_file("slow.py", first_only)
        broker.wait_for_log("did not start: not ready after 5 s (--ready-timeout); next try in 0.1 s")
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        assert [row["state"] for row in broker.status()["workers"]].count("ready") == 1
        assert "slow.py" in broker.log  # the stacks


def test_a_socket_of_the_service_manager_keeps_callers_while_the_broker_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        broker = RunningBroker(tmp_path)
        broker.add_file("hooks.py", SOURCE)
        listening.bind(str(broker.socket))
        listening.listen()
        inode = broker.socket.stat().st_ino
        broker.inherits = (listening.fileno(),)
        broker.prefix = [sys.executable, "-c", AS_SYSTEMD_DOES, str(listening.fileno())]
        with broker:
            before = worker_that_answers(broker)
            assert broker.stop() == 0
            assert broker.socket.stat().st_ino == inode
            answers: list[int] = []
            waiting = threading.Thread(target=lambda: answers.append(worker_that_answers(broker)))
            waiting.start()
            wait_until(lambda: connections_to(broker.socket) > 0, lambda: "a connection that nobody has accepted")
            broker.forget_status()
            broker.start().wait_ready()
            waiting.join()
            assert answers != [before]
            assert broker.socket.stat().st_ino == inode


def worker_that_answers(broker: RunningBroker) -> int:
    call = build_object(CallDescription("add_header", bundle="hooks")).SerializeToString()
    with GrpcClient(broker.address) as client:
        answer = Object.FromString(client.call(METHOD, call, timeout=60))
    return int(answer.request.set_headers["X-Worker"])


def connections_to(path: Path) -> int:
    """How many there are, whether somebody serves them or not."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(row[-1] == os.fspath(path) and row[3] == "00000000" for row in rows)
