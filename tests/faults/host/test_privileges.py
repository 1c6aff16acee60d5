"""Started as root, the broker becomes another user before plugin code runs, and works as that user."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.accounts import OTHER_USER, needs_root, reachable
from tests.support.broker import PATIENCE, TYKPY, RunningBroker, wait_until
from tests.support.bundles import write_bundle
from tests.support.metrics import Metrics, UnixHttp
from tests.support.root import ROOT

BECOMES_ANOTHER = """
import os, sys
from tykpy.broker.errors import BrokerError
from tykpy.broker.host.privileges import TargetUser
os.setgroups([0])
setattr(os, sys.argv[1], lambda *_: None)
try:
    TargetUser(int(sys.argv[2]), int(sys.argv[2])).become()
    print("became it")
except BrokerError as error:
    print(error)
"""
"""With one of the calls for it left out, as if it had done nothing."""
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
HOOKS = """
import os
from tyk.decorators import Pre
from gateway import TykGateway as tyk

at_import = f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"

@Pre
def who(request, session, spec):
    request.add_header("At-Import", at_import)
    request.add_header("Worker", str(os.getpid()))
    tyk.store_data("key", "stored", 60)
    request.add_header("Stored", tyk.get_data("key"))
    return request, session

@Pre
def spies(request, session, spec):
    zygote = os.getppid()
    broker = open(f"/proc/{zygote}/stat").read().rpartition(")")[2].split()[1]
    for pid in (zygote, broker):
        for name in ("environ", "mem", "maps"):
            try:
                open(f"/proc/{pid}/{name}", "rb").read(1)
                request.add_header(f"{pid} {name}", "read")
            except PermissionError:
                request.add_header(f"{pid} {name}", "denied")
    request.add_header("Broker", broker)
    return request, session

@Pre
def becomes_root(request, session, spec):
    for call in (os.setuid, os.setgid):
        try:
            call(0)
            request.add_header(call.__name__, "became root")
        except PermissionError:
            request.add_header(call.__name__, "denied")
    return request, session
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that every user can reach, unlike pytest's own."""
    needs_root()
    path = Path(tempfile.mkdtemp(prefix="tykpy-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def broker_in(folder: Path, *flags: str, workers: int = 1) -> RunningBroker:
    """Return a broker whose runtime folder belongs to the other user."""
    broker = RunningBroker(folder, *flags, workers=workers)
    broker.add_file("hooks.py", HOOKS)
    broker.prefix = reachable([])
    os.chown(broker.runtime, OTHER_USER, OTHER_USER)
    (broker.runtime / "notify").chmod(0o777)
    return broker


def broker_as_other(folder: Path, *flags: str, workers: int = 1) -> RunningBroker:
    """Return a broker that becomes that user."""
    return broker_in(folder, "--user", str(OTHER_USER), "--group", str(OTHER_USER), *flags, workers=workers)


def rights_of(pid: int) -> dict[str, str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: " ".join(value.split()) for name, value in re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE)}


def assert_is_other(pid: int) -> None:
    rights, number = rights_of(pid), str(OTHER_USER)
    assert rights["Uid"] == rights["Gid"] == " ".join([number] * 4)
    assert rights["Groups"] == number
    assert rights["NoNewPrivs"] == "1"
    assert {int(rights[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


@contextlib.contextmanager
def ended_with_its_successor(broker: RunningBroker) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            successor = broker.status()["pid"]
            if successor != broker.pid:
                process = psutil.Process(successor)
                process.terminate()
                process.wait(PATIENCE)


@LOOPS
def test_plugins_are_never_root(folder: Path, loop: str) -> None:
    with broker_as_other(folder, "--event-loop", loop) as broker:
        headers = broker.call("who", bundle="hooks").request.set_headers
        three = str((OTHER_USER,) * 3)
        assert headers["At-Import"] == f"{three} {three} [{OTHER_USER}]"
        for pid in (broker.pid, int(headers["Worker"])):
            assert_is_other(pid)
        denied = broker.call("becomes_root", bundle="hooks").request.set_headers
        assert dict(denied) == {"setuid": "denied", "setgid": "denied"}
        assert f"running as user {OTHER_USER}" in broker.log
        assert "plugins run as root" not in broker.log


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("setresuid", f"we are not user {OTHER_USER} and group {OTHER_USER}, although nothing failed"),
        ("setresgid", f"we are not user {OTHER_USER} and group {OTHER_USER}, although nothing failed"),
        ("setgroups", f"user {OTHER_USER} is still in root's group"),
        ("getpid", "became it"),
    ],
)
def test_giving_up_root_is_verified(left_out: str, said: str) -> None:
    needs_root()
    command = [sys.executable, "-c", BECOMES_ANOTHER, left_out, str(OTHER_USER)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == said + "\n"


def test_all_files_belong_to_the_target_user(folder: Path) -> None:
    with broker_as_other(folder) as broker:
        assert broker.call("who", bundle="hooks").request.set_headers["Stored"] == "stored"
        owners = {path.name: path.stat().st_uid for path in broker.runtime.iterdir()}
        assert {"tyk.sock", "admin.sock", "storage.sqlite3"} <= owners.keys()
        made = owners.keys() - {"broker.log", "notify"}
        assert {owners[name] for name in made} == {OTHER_USER}
    assert not broker.socket.exists()


def test_later_workers_run_as_the_target_user_too(folder: Path) -> None:
    with broker_as_other(folder, "--max-memory", "1") as broker:
        first = int(broker.call("who", bundle="hooks").request.set_headers["Worker"])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: broker.status()["restarts"] > 0, lambda: broker.log)
        broker.add_file("hooks.py", HOOKS + "\n# new\n")
        subprocess.run([TYKPY, "reload", "--runtime-dir", str(broker.runtime)], check=True, timeout=60)
        second = int(broker.call("who", bundle="hooks").request.set_headers["Worker"])
        assert second != first
        assert_is_other(second)
        # Looking into a worker for its memory needs rights as well: it has more than a byte, so it is replaced.
        wait_until(lambda: broker.status()["recycled"] > 0, lambda: broker.log)


@LOOPS
def test_an_upgrade_without_roots_help(folder: Path, loop: str) -> None:
    broker = broker_as_other(folder, "--event-loop", loop)
    rooted = folder / "rooted"
    rooted.mkdir(mode=0o755)
    broker.add_flags("--listen", broker.address, "--listen", f"unix://{rooted}/tyk.sock")
    with broker, ended_with_its_successor(broker):
        os.kill(broker.pid, signal.SIGUSR2)
        assert broker.wait() == 0
        successor = broker.status()["pid"]
        assert successor != broker.pid
        assert_is_other(successor)
        headers = broker.call("who", bundle="hooks").request.set_headers
        assert_is_other(int(headers["Worker"]))
        assert headers["Stored"] == "stored"
        process = psutil.Process(successor)
        process.terminate()
        process.wait(PATIENCE)
        assert not broker.socket.exists()
        # Only root could remove this one; nobody listens there, so the next broker replaces it.
        assert (rooted / "tyk.sock").exists()
        assert "stays: its folder is not ours to change" in broker.log
        broker.forget_status()
        broker.start().wait_ready()
        assert (rooted / "tyk.sock").stat().st_uid == OTHER_USER


def test_metrics_are_served_as_the_target_user(folder: Path) -> None:
    broker = broker_as_other(folder)
    http_socket = broker.runtime / "metrics.sock"
    broker.add_flags("--metrics", f"unix://{http_socket}", "--admin-page")
    with broker:
        worker = int(broker.call("who", bundle="hooks").request.set_headers["Worker"])
        assert_is_other(broker.pid)
        assert (http_socket.stat().st_uid, http_socket.stat().st_mode & 0o077) == (OTHER_USER, 0)
        with contextlib.closing(UnixHttp(http_socket)) as connection:
            metrics = Metrics(connection.get("/metrics").read().decode())
            assert connection.get("/").read().startswith(b"<!doctype html>")
        # Of processes whose files in /proc belong to root, as they cannot be dumped.
        assert metrics("tykpy_worker_resident_memory_bytes", worker="0") > psutil.Process(worker).memory_info().rss / 2
        assert metrics("tykpy_worker_cpu_seconds_total", worker="0") > 0
        assert metrics("process_resident_memory_bytes") > 0
    assert not http_socket.exists()


def test_a_new_runtime_folder_belongs_to_the_target_user(folder: Path) -> None:
    broker = broker_as_other(folder, "--runtime-dir", str(folder / "run"))
    with broker:
        assert (folder / "run").stat().st_uid == OTHER_USER
        assert {path.stat().st_uid for path in (folder / "run").iterdir()} == {OTHER_USER}
    assert not list((folder / "run").glob("*.sock"))


def test_a_user_with_a_name_has_its_groups_and_home(folder: Path) -> None:
    known = pwd.getpwnam("nobody")
    broker = broker_in(folder, "--user", "nobody")
    broker.add_file("home.py", "import os\nprint(os.environ['HOME'], os.environ['USER'], os.environ['LOGNAME'])\n")
    os.chown(broker.runtime, known.pw_uid, known.pw_gid)
    with broker:
        assert rights_of(broker.pid)["Uid"] == " ".join([str(known.pw_uid)] * 4)
        assert set(rights_of(broker.pid)["Groups"].split()) == set(map(str, os.getgrouplist("nobody", known.pw_gid)))
        assert f"{known.pw_dir} nobody nobody" in broker.log


def test_plugins_cannot_inspect_the_broker_or_the_zygote(folder: Path) -> None:
    """They are the same user, which never was root: only the broker's not being dumpable keeps them out."""
    broker = broker_in(folder)
    become = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups"]
    broker.prefix = reachable(become)
    with broker:
        seen = dict(broker.call("spies", bundle="hooks").request.set_headers)
        assert seen.pop("Broker") == str(broker.status()["pid"])
        assert list(seen.values()) == ["denied"] * 6


def test_only_root_can_become_another_user(folder: Path) -> None:
    broker = broker_in(folder, "--user", "nobody").unready()
    broker.prefix = reachable(["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups"])
    with broker:
        assert broker.wait() != 0
        assert "only root can become another user" in broker.log


def test_unreadable_bundles_are_an_error_at_once(folder: Path) -> None:
    broker = broker_as_other(folder).unready()
    broker.bundles.chmod(0o700)
    with broker:
        assert broker.wait() == 2
        assert f"--user {OTHER_USER} cannot read {broker.bundles}" in broker.log
    assert not broker.socket.exists()


def check_as_other(folder: Path, bundles: Path) -> str:
    """Return what `tykpy check-config` prints for the other user."""
    flags = ["--user", str(OTHER_USER), "--group", str(OTHER_USER), "--bundles", str(bundles)]
    command = reachable([TYKPY, "check-config", "--runtime-dir", str(folder / "run"), *flags])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == ("problem" in done.stdout), done.stdout + done.stderr
    return done.stdout


def test_check_config_reads_bundles_as_the_target_user(folder: Path) -> None:
    """A gateway creates bundle folders with mode 0700; the broker reports the same problems."""
    bundles = folder / "bundles"
    broker = broker_as_other(folder)
    assert check_as_other(folder, bundles).endswith("ok\n")
    closed, inner, later = bundles / "closed", bundles / "inner", folder / "later"
    for mine in (closed, inner):
        write_bundle(mine, {"middleware.py": HOOKS}, pre=[{"name": "who"}])
    closed.chmod(0o700)
    (inner / "middleware.py").chmod(0o600)
    said = check_as_other(folder, bundles)
    needed = f"user {OTHER_USER} needs access to it"
    assert re.search(rf"problem: bundle closed: .*Permission denied.*: {needed}", said), said
    assert re.search(rf"problem: bundle inner: .*middleware.py .*: {needed}", said), said
    with broker:
        assert broker.log.count(needed) == 2
        assert "Stored" in broker.call("who", bundle="hooks").request.set_headers
    assert f"--bundles {later}: there is no such folder yet" in check_as_other(folder, later)
    bundles.chmod(0o700)
    assert f"problem: --user {OTHER_USER} cannot read {bundles}\n" in check_as_other(folder, bundles)


def test_bundles_may_be_missing_with_another_user(folder: Path) -> None:
    broker = broker_as_other(folder)
    shutil.rmtree(broker.bundles)
    with broker:
        assert f"--bundles {broker.bundles}: there is no such folder yet" in broker.log
        aside = folder / "aside"
        aside.mkdir()
        (aside / "hooks.py").write_text(HOOKS)
        aside.rename(broker.bundles)
        assert broker.call("who", bundle="hooks").request.set_headers["Stored"] == "stored"
        broker.bundles.chmod(0o700)
        broker.wait_for_log(
            f"--bundles {broker.bundles}: cannot be read: Permission denied: user {OTHER_USER} needs access to it"
        )
        assert broker.call("who", bundle="hooks").request.set_headers["Stored"] == "stored"


@pytest.mark.parametrize("command", ["broker", "check-config"])
def test_an_unreachable_interpreter_is_an_error(folder: Path, command: str) -> None:
    """It is below a folder of root's; the error has no traceback and names the folder."""
    closed = folder / "closed"
    (closed / "bin").mkdir(parents=True)
    (closed / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), closed)
    (closed / "lib").symlink_to(Path(sys.prefix, "lib"))
    closed.chmod(0o700)
    flags = ["--user", str(OTHER_USER), "--group", str(OTHER_USER), "--runtime-dir", str(folder / "run")]
    program = [str(closed / "bin" / "python"), "-c", "from tykpy.cli import main; main()", command, *flags]
    done = subprocess.run(reachable(program), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    said = f"--user {OTHER_USER} cannot read {closed}/bin/python: user {OTHER_USER} may not enter {closed}"
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == (2 if command == "broker" else 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--user", "nobody-is-so"], "no user 'nobody-is-so'"),
        (["--user", "root"], "is root, whom it is to do without"),
        (["--user", str(OTHER_USER)], "needs --group"),
        (["--group", "0"], "--group 0: needs --user"),
    ],
)
def test_an_impossible_user_is_a_wrong_option(tmp_path: Path, flags: list[str], said: str) -> None:
    for command in ("broker", "check-config"):
        done = subprocess.run(
            [TYKPY, command, "--runtime-dir", str(tmp_path / "run"), *flags],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in ((2,) if command == "broker" else (1, 2))
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_running_plugins_as_root_causes_a_warning(tmp_path: Path) -> None:
    needs_root()
    with RunningBroker(tmp_path) as broker:
        assert "plugins run as root" in broker.log


def test_the_interpreter_is_this_one() -> None:
    """`reachable` must show other users the interpreter that runs the tests."""
    needs_root()
    command = [sys.executable, "-c", "import sys, tykpy.broker; print(sys.version)"]
    done = subprocess.run(reachable(command), capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == sys.version
