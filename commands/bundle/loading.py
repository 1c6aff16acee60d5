"""Load the bundles of a folder in a separate process, and describe them: a bundle may end that process.

The process is `python -P -m tykpy.commands.bound PID tykpy.commands.bundle.loading PLACE`. It finds its task in the
folder PLACE, writes there what it does, and unpacks ZIPs below it.
"""

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from json import dumps  # by name: a bundle may replace it
from pathlib import Path
from typing import Any, Final

from tykpy.broker.pool.process import describe_end, environment_for_workers
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.load_observer import LoadObserver
from tykpy.bundles.registry import BundleStore
from tykpy.commands.bound import spawn
from tykpy.commands.errors import CommandError

Descriptions = list[dict[str, Any]]

_TASK: Final = "task.json"
_REPORT: Final = "report"
"""A line for each event: a list of its name and what it is about."""
_DESCRIBED: Final = "described"
_STDERR: Final = 2


def describe_loaded(folder: Path, public_key: Path | None, place: Path) -> Descriptions:
    """Describe the bundles of a folder once they are loaded; `place` is an empty folder for the process.

    A bundle that ends the process is described as broken, and the others are loaded by another process. What bundles
    print goes to standard error. Raises CommandError if the process ends for another reason.
    """
    blocked: list[dict[str, str]] = []
    while True:
        task = {"folder": str(folder), "public_key": public_key and str(public_key), "blocked": blocked}
        (place / _TASK).write_text(dumps(task), encoding="ascii")
        (place / _REPORT).write_bytes(b"")
        code = _run(place)
        loading, described = _read(place / _REPORT)
        if described is not None:
            return described
        how = describe_end(code).words
        if loading is None:
            raise CommandError(f"the bundles of {folder} cannot be loaded: the process that loads them {how}")
        blocked.append({"path": loading, "version": "", "reason": f"the process that loaded it {how}"})


def _run(place: Path) -> int:
    """Run the process to its end; return its exit code."""
    # In a group of its own, so that a bundle which sends signals to its group does not reach the command.
    with spawn(
        __name__, str(place), stdin=subprocess.DEVNULL, stdout=_STDERR, process_group=0,
        env=environment_for_workers(os.environ),
    ) as process:  # fmt: skip
        try:
            return process.wait()
        finally:
            process.kill()


def _read(report: Path) -> tuple[str | None, Descriptions | None]:
    """Return the path of the bundle that was being loaded at the end, and the descriptions if they are there."""
    loading = None
    with suppress(ValueError):  # a bundle wrote into it
        for line in report.read_text(encoding="ascii").splitlines():
            name, body = json.loads(line)
            if name == _DESCRIBED:
                return None, body
            loading = body["path"] if name == "loading" else None
    return loading, None


def main() -> None:
    """Load the bundles, write their descriptions into the report, and end."""
    place = Path(sys.argv[1])
    task = json.loads((place / _TASK).read_text(encoding="ascii"))
    # The descriptions tell of every problem.
    logging.getLogger("tykpy.worker").disabled = True
    report = os.open(place / _REPORT, os.O_WRONLY | os.O_APPEND)

    def send(name: str, body: object) -> None:
        # Only those about the import of a bundle, and what comes at its end.
        if name in ("loading", "bundle", "gone", _DESCRIBED):
            _write(report, dumps([name, None if name == "bundle" else body]) + "\n")

    observer = LoadObserver(send, LoadGuard([report]))
    for bundle in task["blocked"]:
        observer.block(bundle)
    key = PublicKey.read(Path(task["public_key"])) if task["public_key"] is not None else None
    store = BundleStore([Path(task["folder"])], place / "unpacked", key, observer)
    store.load_all()
    send(_DESCRIBED, [*store.describe(), *store.unloaded()])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # neither threads of bundles nor what they have registered for the end keep the command waiting


def _write(descriptor: int, text: str) -> None:
    data = text.encode("ascii")
    while data:
        data = data[os.write(descriptor, data) :]
