"""Workers replaced while a bundle's files are half written, gone or new serve what was served before."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bundles, keys
from tests.support.broker import PATIENCE, TYKPY, RunningBroker, wait_until
from tests.support.peers.load import Load
from tykpy.broker.errors import RpcError
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.commands.bundle.build import build

SOURCE = """
import os
from pathlib import Path
from tyk.decorators import Pre
import settings

DATA = Path(__file__).with_name("data.txt").read_text()

@Pre
def first(request, session, spec):
    request.add_header("Version", settings.VERSION)
    request.add_header("Nonce", request.get_header("Nonce"))
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
def second(request, session, spec):
    from later import VERSION
    request.add_header("Version", VERSION + DATA)
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""
SINGLE = """
from tyk.decorators import Pre

@Pre
def first(request, session, spec):
    request.add_header("Version", "1")
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""
MANIFEST = {
    "file_list": ["middleware.py", "settings.py", "later.py", "data.txt"],
    "custom_middleware": {"driver": "python"},
}


def write_bundle(folder: Path, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "middleware.py").write_text(SOURCE)
    for name in ("settings.py", "later.py"):
        (folder / name).write_text(f"VERSION = {version!r}\n")
    (folder / "data.txt").write_text("!")


def half(folder: Path) -> None:
    (folder / "middleware.py").write_text(SOURCE[: len(SOURCE) // 2])


def broken(folder: Path) -> None:
    (folder / "middleware.py").write_text(SOURCE[: SOURCE.index("request.add")] + "def (")


def one_hook(folder: Path) -> None:
    (folder / "middleware.py").write_text(SOURCE.partition("@Pre\ndef second")[0])


def empty(folder: Path) -> None:
    (folder / "middleware.py").write_text("")


def deadly(folder: Path) -> None:
    (folder / "middleware.py").write_text("import os\nos._exit(5)\n")


def two_versions(folder: Path) -> None:
    (folder / "settings.py").write_text("VERSION = '2'\n")


def no_data(folder: Path) -> None:
    """Remove only data, without which the code cannot be imported."""
    (folder / "data.txt").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def half_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps(MANIFEST)[:20])


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def pids(broker: RunningBroker) -> set[int]:
    return {worker["pid"] for worker in broker.status()["workers"]}


def versions(broker: RunningBroker, bundle: str = "mine") -> set[str]:
    answers = [broker.call(hook, bundle=bundle, headers=[("Nonce", "-")]) for hook in ("first", "second", "first")]
    return {answer.request.set_headers["Version"].rstrip("!") for answer in answers}


def reload(broker: RunningBroker) -> None:
    with broker.admin() as client:
        client.call("reload", timeout=PATIENCE * 2)


def replace(broker: RunningBroker, dying: set[int]) -> None:
    """Kill workers, and wait for their replacements."""
    for pid in dying:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        workers = broker.status()["workers"]
        return [one["state"] for one in workers] == ["ready"] * broker.workers and not dying & {
            one["pid"] for one in workers
        }

    wait_until(replaced, lambda: broker.log)


DAMAGES = [
    half,
    broken,
    one_hook,
    empty,
    deadly,
    two_versions,
    no_data,
    no_manifest,
    half_a_manifest,
    empty_folder,
    gone,
]


def test_replaced_workers_serve_the_version_that_was_served(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, workers=2)
    write_bundle(broker.bundles / "mine", "1")
    with broker:
        for damage in DAMAGES:
            damage(broker.bundles / "mine")
            replace(broker, {min(pids(broker))})
            assert versions(broker) == {"1"}, damage
            replace(broker, pids(broker))
            assert versions(broker) == {"1"}, damage
            (mine,) = broker.status()["bundles"]
            assert "serves the version of" in mine["saved_copy"], damage
            assert (mine["loaded_in"], mine["problems"]) == (2, []), damage
            write_bundle(broker.bundles / "mine", "2")
        assert broker.log.count("serves the version of") == 1
        assert broker.status()["dispatches"]["failed"] == 0
        shown = subprocess.run(
            [TYKPY, "hooks", "--runtime-dir", str(broker.runtime)], capture_output=True, text=True, check=True
        )
        assert f"note: bundle mine {mine['saved_copy']}" in shown.stderr
        reload(broker)
        assert versions(broker) == {"2"}
        assert [one["saved_copy"] for one in broker.status()["bundles"]] == [""]
        wait_until(lambda: len(copies(broker)) == 1, lambda: str(copies(broker)))
        assert all(path.stat().st_mode & 0o077 == 0 for path in copies(broker))
    assert not broker.runtime.exists()


def as_file(folder: Path) -> Path:
    path = folder / "mine.py"
    path.write_text(SINGLE)
    return path


def as_zip(folder: Path) -> Path:
    return bundles.write_zip(folder / "mine.zip", {"middleware.py": SINGLE})


def as_parts(folder: Path) -> Path:
    """Write two bundles that one API uses."""
    path = folder / bundles.md5("a.zip,b.zip")
    bundles.write_bundle(path / "a", {"middleware.py": SINGLE})
    bundles.write_bundle(path / "b", {"middleware.py": SINGLE.replace("first", "other")})
    return path / "a" / "middleware.py"


@pytest.mark.parametrize("write", [as_file, as_zip, as_parts])
def test_every_kind_of_bundle_is_saved(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    broker = RunningBroker(tmp_path, workers=1)
    path = write(broker.bundles)
    with broker:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        replace(broker, pids(broker))
        answer = broker.call("first", headers=[("Nonce", "-")])
        assert answer.request.set_headers["Version"] == "1"


def test_a_signed_bundle_is_saved_and_checked(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, "--public-key", str(keys.public_pem(tmp_path)))
    write_bundle(tmp_path / "source", "1")
    build(tmp_path / "source", tmp_path / "mine.zip", keys.private_pem(tmp_path))
    with zipfile.ZipFile(tmp_path / "mine.zip") as signed:
        signed.extractall(broker.bundles / "mine")
    with broker:
        half(broker.bundles / "mine")
        replace(broker, pids(broker))
        assert versions(broker) == {"1"}
        (copy,) = copies(broker)
        (copy / "mine" / "settings.py").write_text("VERSION = 'forged'\n")
        for pid in pids(broker):
            os.kill(pid, signal.SIGKILL)
        broker.wait_for_log("nothing was brought back")
        with pytest.raises(GrpcCallError, match="the checksum is"):
            versions(broker)


def test_recycled_workers_serve_the_version_that_was_served(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, "--max-requests", "10", workers=2)
    write_bundle(broker.bundles / "mine", "1")
    with broker:
        broken(broker.bundles / "mine")
        with Load(broker.address, "second", "mine", callers=2, header="Version") as load:
            wait_until(lambda: broker.status()["recycled"] >= 4, lambda: str(broker.status()))
        load.check()
        assert not load.errors
        assert set(load.seen) == {"1!"}
        with pytest.raises(RpcError, match="SyntaxError"):
            reload(broker)
        assert versions(broker) == {"1"}


def test_a_bundle_too_big_to_save_is_served_where_it_is_loaded(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, workers=2)
    write_bundle(broker.bundles / "mine", "1")
    broker.add_file("other.py", SINGLE.replace("first", "other"))
    with (broker.bundles / "mine" / "model.bin").open("wb") as file:
        file.truncate(33 << 20)
    with broker:
        assert "bundle mine: more than 32 MiB" in broker.log
        half(broker.bundles / "mine")
        os.kill(min(pids(broker)), signal.SIGKILL)
        broker.wait_for_log("is not let in")
        assert versions(broker) == {"1"}
        for pid in pids(broker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert broker.call("other", headers=[("Nonce", "-")])
        broker.wait_for_log("is let in all the same, no other serves: bundle mine")


def test_a_folder_left_by_a_killed_broker_is_removed(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    write_bundle(broker.bundles / "mine", "1")
    with broker:
        (left,) = (broker.runtime / "saved").iterdir()
        assert broker.process is not None
        broker.process.kill()
        broker.process.wait()
        broker.forget_status()
        broker.start().wait_ready()
        (now,) = (broker.runtime / "saved").iterdir()
        assert now != left
        assert broker.stop() == 0
        assert list((broker.runtime / "saved").iterdir()) == []


def copies(broker: RunningBroker) -> list[Path]:
    return [path for path in broker.runtime.glob("saved/*/*") if path.is_dir()]
