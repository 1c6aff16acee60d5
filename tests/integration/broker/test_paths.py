"""Paths of any bytes in any locale, and relative paths after a plugin changed the working directory."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, RunningBroker
from tests.support.bundles import IMPORTS, write_zip
from tests.support.metrics import MeteredBroker

STORES = """
import gateway

@Pre
def stores(request, session, spec):
    gateway.TykGateway.store_data("key", "kept", 60)
    return request, session

@Pre
def fetches(request, session, spec):
    request.add_header("X-Kept", gateway.TykGateway.get_data("key") or "nothing")
    return request, session
"""
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "env"),
    [
        (b"caf\xe9", {"LC_ALL": "C.UTF-8"}),
        ("café".encode(), NO_UTF8),
        (b"caf\xe9", NO_UTF8),
        (b"a\nb", {}),
    ],
    ids=["not UTF-8", "UTF-8 in a C locale", "not UTF-8 in a C locale", "newline"],
)
def test_folders_of_any_name_serve(tmp_path: Path, name: bytes, env: dict[str, str]) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    broker = RunningBroker(folder, "--reload", env=env)
    odd = broker.runtime / os.fsdecode(name)
    broker.add_flags("--runtime-dir", str(odd))
    broker.socket = odd / "tyk.sock"
    write_zip(broker.bundles / "zip.zip", {"middleware.py": STORES}, pre=[{"name": "stores"}, {"name": "fetches"}])
    with broker:
        broker.call("stores", bundle="zip.zip")
        assert broker.call("fetches", bundle="zip.zip").request.set_headers["X-Kept"] == "kept"
        assert {"unpacked", "storage.sqlite3"} <= {path.name for path in odd.iterdir()}
        assert "Traceback" not in broker.log
    assert not broker.socket.exists()


def test_bundles_of_any_name_are_shown(tmp_path: Path) -> None:
    """The last one is a folder that nothing is in yet."""
    broker = MeteredBroker(tmp_path)
    loaded, failed, empty = (os.fsdecode(name) for name in (b"caf\xe9.py", b"\xe9.py", b"emp\xe9"))
    broker.add_file(loaded, IMPORTS + "@Pre\ndef hook(request, session, spec):\n    return request, session\n")
    broker.add_file(failed, "raise ValueError")
    (broker.bundles / empty).mkdir()
    shown = {r"caf\udce9.py", r"\udce9.py", r"emp\udce9"}
    with broker:
        broker.call("hook")
        with broker.admin() as client:
            bundles = client.call("hooks")
        assert isinstance(bundles, list)
        assert {bundle["name"] for bundle in bundles} == shown
        assert {labels["bundle"] for labels in broker.scrape().labels_of("tykpy_bundle_info")} < shown
        for command in ("hooks", "status", "top --once", "reload"):
            run = [TYKPY, *command.split(), "--runtime-dir", str(broker.runtime)]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            assert "Traceback" not in done.stderr + done.stdout
            assert r"emp\udce9" in done.stdout or command != "hooks"
        assert "has changed on disk" not in broker.log
        assert "Traceback" not in broker.log


def test_relative_paths_outlive_a_plugins_chdir(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.prefix = ["env", "-C", str(broker.runtime)]
    broker.add_flags("--runtime-dir", "relative")
    broker.socket = broker.runtime / "relative" / "tyk.sock"
    (tmp_path / "elsewhere").mkdir()
    moves = f"import os\nos.chdir({str(tmp_path / 'elsewhere')!r})\nfrom tyk.decorators import Pre\n"
    broker.add_file("hooks.py", moves + STORES)
    with broker:
        broker.call("stores", bundle="hooks.py")
        os.kill(broker.status()["workers"][0]["pid"], signal.SIGKILL)
        assert broker.call("fetches", bundle="hooks.py").request.set_headers["X-Kept"] == "kept"
        assert (broker.runtime / "relative" / "storage.sqlite3").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_planted_code_is_not_run(tmp_path: Path) -> None:
    """If others can write to the parent of the runtime folder, they may have planted unpacked bundles in it."""
    broker = RunningBroker(tmp_path).unready()
    (broker.runtime / "open" / "rt" / "unpacked").mkdir(parents=True)
    (broker.runtime / "open").chmod(0o777)
    broker.add_flags("--runtime-dir", str(broker.runtime / "open" / "rt"))
    with broker:
        assert broker.wait() == 4
        assert "open can be written by everybody: plugins would run what others put there" in broker.log
