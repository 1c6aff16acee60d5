"""What processes import before they can serve: nothing that could wait, and nothing at all in workers."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.broker import running_broker

LOADED: Final = "import sys, {module}; print(*sys.modules)"
TELLS: Final = """
import sys
from tyk.decorators import Pre

at_import = " ".join(sys.modules)

@Pre
def tells(request, session, spec):
    request.add_header("At-Import", at_import)
    request.add_header("In-Hook", " ".join(sys.modules))
    return request, session
"""


def loaded_by(module: str) -> set[str]:
    """Return all modules that a fresh interpreter has loaded after importing this one."""
    command = [sys.executable, "-P", "-c", LOADED.format(module=module)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def rooms(modules: set[str]) -> set[str]:
    """Return the packages of modules: `broker` and `broker.http2` for `broker.http2.frames`."""
    names = {name.removeprefix("tykpy.") for name in modules}
    return {".".join(name.split(".")[:2]) for name in names} | {name.partition(".")[0] for name in names}


def test_a_worker_imports_nothing_but_its_bundles(tmp_path: Path) -> None:
    zygote = loaded_by("tykpy.workers.__main__")
    with running_broker(tmp_path, files={"hooks.py": TELLS}) as broker:
        told = broker.call("tells", bundle="hooks").request.set_headers
    own = {name.partition(".")[0] for name in set(told["At-Import"].split()) - zygote}
    # ctypes makes the zygote non-dumpable. runpy comes from `python -m`. The bundle's module is also in `sys.modules`
    # under its own name while it is loaded.
    assert {name for name in own if not name.startswith("tykpy_hooks_py_")} <= {"ctypes", "_ctypes", "runpy", "hooks"}
    assert set(told["In-Hook"].split()) - set(told["At-Import"].split()) == set()


def test_a_zygote_imports_only_what_every_worker_needs() -> None:
    unwanted = {
        "broker",
        "redis",
        "sqlite3",
        "uvloop",
        "http",
        "cryptography",
        "ipc.channel.broker_end",
        "multiprocessing",
    }
    assert rooms(loaded_by("tykpy.workers.__main__")) & unwanted == set()


def test_a_broker_starts_its_zygote_before_heavy_imports() -> None:
    before, after = loaded_by("tykpy.cli, tykpy.broker.start"), rooms(loaded_by("tykpy.broker.app"))
    late = {"broker.app", "broker.grpc", "broker.http2", "broker.msgpackrpc", "broker.router", "hpack"}
    assert late <= after
    assert rooms(before) & (late | {"workers", "tyk", "google", "redis", "rich", "uvloop", "tomllib"}) == set()
