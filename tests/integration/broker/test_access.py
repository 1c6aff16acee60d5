"""Who may connect: sockets and folders are private to their owner, and an allow-list restricts them further."""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.accounts import OTHER_USER, needs_root, run_as
from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tykpy.broker.errors import RpcError
from tykpy.client.rpc import RpcClient

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
CALL_GRPC = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
        print("OK")
    except grpc.RpcError as error:
        print(error.code(), error.details())
"""
CALL_RPC = """
import sys
from tykpy.broker.errors import RpcError
from tykpy.client.rpc import RpcClient
try:
    with RpcClient(sys.argv[1]) as client:
        print(client.call("ping"))
except RpcError as error:
    print(error)
"""


@contextlib.contextmanager
def broker_for_all(folder: Path, *flags: str) -> Iterator[RunningBroker]:
    """Run a broker whose sockets are reachable by every user."""
    broker = RunningBroker(folder, "--socket-mode", "0666", *flags)
    broker.add_flags("--listen", broker.address, "--listen", f"msgpack+unix://{broker.runtime}/rpc.sock")
    broker.add_file("hooks.py", SOURCE)
    broker.runtime.chmod(0o755)
    with broker:
        yield broker


def grpc_says(broker: RunningBroker, user: int, groups: tuple[int, ...] = ()) -> str:
    return run_as(user, [sys.executable, "-c", CALL_GRPC, broker.address], groups)


def rpc_says(broker: RunningBroker, socket: str, user: int, groups: tuple[int, ...] = ()) -> str:
    return run_as(user, [sys.executable, "-c", CALL_RPC, str(broker.runtime / socket)], groups)


def test_by_default_everything_is_for_its_owner(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--runtime-dir", str(tmp_path / "run"), files={"hooks.py": SOURCE}):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
        assert modes["tyk.sock"] == modes["admin.sock"] == 0o600


@LOOPS
def test_an_unlisted_peer_is_refused_in_its_own_protocol(tmp_path: Path, loop: str) -> None:
    stranger = str(os.getuid() + 1)
    broker = RunningBroker(tmp_path, "--allow-user", stranger, "--event-loop", loop)
    broker.add_flags("--listen", broker.address, "--listen", f"msgpack+unix://{broker.runtime}/rpc.sock")
    with broker:
        text = f"user {os.getuid()} with groups .* may not connect"
        with grpc.insecure_channel(broker.address) as channel:
            for method in ("/grpc.health.v1.Health/Check", "/coprocess.Dispatcher/Dispatch", "/what/Ever"):
                with pytest.raises(grpc.RpcError, match=text) as refused:
                    channel.unary_unary(method)(b"x", timeout=20)
                assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        for _ in range(3):
            with RpcClient(broker.runtime / "rpc.sock") as client, pytest.raises(RpcError, match=text) as caught:
                client.call("ping")
            assert caught.value.code == "DENIED"
        # The broker's own user may always use the admin socket.
        assert broker.status()["wanted"] == 1
        assert broker.log.count("refused process") == 1
        assert f"refused process {os.getpid()} of user {os.getuid()}" in broker.log
        assert "a connection is closed" not in broker.log


@LOOPS
def test_a_peer_on_the_list_is_served(tmp_path: Path, loop: str) -> None:
    broker = RunningBroker(tmp_path, "--allow-group", str(os.getgid()), "--event-loop", loop)
    broker.add_file("hooks.py", SOURCE)
    with broker:
        assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"]


def test_the_users_and_groups_of_others(tmp_path: Path) -> None:
    needs_root()
    with broker_for_all(tmp_path, "--allow-user", str(OTHER_USER), "--allow-group", "4242") as broker:
        assert grpc_says(broker, OTHER_USER) == "OK"
        assert rpc_says(broker, "rpc.sock", OTHER_USER) == "pong"
        assert "PERMISSION_DENIED" in grpc_says(broker, OTHER_USER + 1) or "may not" in grpc_says(
            broker, OTHER_USER + 1
        )
        assert "DENIED: user" in rpc_says(broker, "rpc.sock", OTHER_USER + 1)
        # A supplementary group counts like the primary one.
        assert rpc_says(broker, "rpc.sock", OTHER_USER + 1, (7, 4242)) == "pong"
        wait_until(lambda: f"of user {OTHER_USER + 1}, groups" in broker.log, lambda: broker.log)


def test_the_admin_socket_refuses_other_users(tmp_path: Path) -> None:
    """Neither its file mode nor `--allow-user` lets another user in."""
    needs_root()
    with broker_for_all(tmp_path, "--allow-user", str(OTHER_USER)) as broker:
        (broker.runtime / "admin.sock").chmod(0o666)
        assert "DENIED" in rpc_says(broker, "admin.sock", OTHER_USER)
        assert rpc_says(broker, "admin.sock", os.getuid()) == "pong"
        assert "the admin socket: refused process" in broker.log


@pytest.mark.parametrize(
    ("flag", "said"), [("--allow-user", "no user 'nobody-is-so'"), ("--allow-group", "no group 'nobody-is-so'")]
)
def test_an_unknown_user_or_group_is_a_wrong_option(tmp_path: Path, flag: str, said: str) -> None:
    for command in ("broker", "check-config"):
        done = subprocess.run(
            [TYKPY, command, "--runtime-dir", str(tmp_path / "run"), flag, "nobody-is-so"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == (2 if command == "broker" else 1)
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_check_config_takes_every_kind_of_address(tmp_path: Path) -> None:
    flags = ["--runtime-dir", str(tmp_path / "run"), "--bundles", str(tmp_path)]
    listen = ["--listen", f"msgpack+unix://{tmp_path}/a", "--listen", f"unix://{tmp_path}/b"]
    done = subprocess.run(
        [TYKPY, "check-config", *flags, *listen], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout
