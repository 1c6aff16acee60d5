"""Bundles written for the gateway's embedded Python, in real workers."""

import json
from pathlib import Path

from tests.support.broker import RunningBroker, running_broker
from tests.support.bundles import md5

MIDDLEWARE = """
import logging.config
import os
import pkgutil
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vendor"))

import vlib
from tyk.decorators import *

logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"f": {"()": "fmt.Formatter"}},
    "handlers": {"h": {"class": "logging.NullHandler", "formatter": "f"}},
    "loggers": {"%s": {"handlers": ["h"]}},
})
OWNER = logging.getLogger("%s").handlers[0].formatter.owner


@Hook
def own(request, session, spec):
    request.add_header("Own", f"{vlib.OWNER} {OWNER} {pkgutil.resolve_name('fmt').OWNER}")
    return request, session


@Hook
async def lazy(request, session, spec):
    import late

    request.add_header("Own", late.OWNER)
    return request, session


@Hook
def changed_in_place(request, response, session, metadata, spec):
    response.status_code = 418
    response.headers["Own"] = vlib.OWNER
    return request, response, session, metadata, spec
"""
FMT = "import logging\nOWNER = {owner!r}\nclass Formatter(logging.Formatter):\n    owner = OWNER\n"
HOOKS = {"pre": [{"name": "own"}, {"name": "lazy"}], "response": [{"name": "changed_in_place"}]}


def files(folder: str, owner: str) -> dict[str, str]:
    manifest = {"file_list": ["middleware.py", "fmt.py"], "custom_middleware": {"driver": "python", **HOOKS}}
    return {
        f"{folder}/manifest.json": json.dumps(manifest),
        f"{folder}/middleware.py": MIDDLEWARE % (owner, owner),
        f"{folder}/fmt.py": FMT.format(owner=owner),
        f"{folder}/vendor/vlib/__init__.py": f"OWNER = {owner!r}",
        f"{folder}/vendor/late.py": f"OWNER = {owner!r}",
    }


def test_ported_bundles_run_unchanged_and_isolated(tmp_path: Path) -> None:
    """Two bundles with modules of the same names; a third one appears while they are called."""
    with running_broker(tmp_path, workers=2, files=files("one", "1") | files("two", "2")) as broker:

        def check(bundle: str, owner: str) -> None:
            own = broker.call("own", bundle=bundle).request.set_headers["Own"]
            lazy = broker.call("lazy", bundle=bundle).request.set_headers["Own"]
            answer = broker.call("changed_in_place", bundle=bundle, hook_type="Response").response
            assert (own, lazy) == (f"{owner} {owner} {owner}", owner)
            assert (answer.status_code, answer.headers["Own"]) == (418, owner)

        for _ in range(2):
            check("one", "1")
            check("two", "2")
        for name, text in reversed(files(md5("three"), "3").items()):
            broker.add_file(name, text)
        for bundle, owner in (("three", "3"), ("one", "1"), ("two", "2"), ("three", "3")):
            check(bundle, owner)
        for bundle in ("one", "two", md5("three")):
            broker.wait_for_log(f"hook changed_in_place of bundle {bundle} (")


PROJECT = """
import os, sys
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vendor"))
import installed
import vlib
from tyk.decorators import Hook

@Hook
def own(request, session, spec):
    import installed.late
    request.add_header("Own", f"{installed.late.OWNER} {installed.__name__} {vlib.OWNER} {vlib.__name__ != 'vlib'}")
    request.add_header("Path", str(os.environ["PYTHONPATH"] in sys.path))
    return request, session
"""


def test_packages_installed_below_the_folder_are_shared(tmp_path: Path) -> None:
    """As with `--bundles .` in a project's folder that contains its virtual environment."""
    library = tmp_path / "bundles" / ".venv" / "site-packages"
    files = {
        "mine.py": PROJECT,
        ".venv/site-packages/installed/__init__.py": "",
        ".venv/site-packages/installed/late.py": "OWNER = 'all'",
        "vendor/vlib.py": "OWNER = 'mine'",
    }
    broker = RunningBroker(tmp_path, env={"PYTHONPATH": str(library)})
    for name, text in files.items():
        broker.add_file(name, text)
    with broker:
        headers = broker.call("own", bundle="mine").request.set_headers
        assert (headers["Own"], headers["Path"]) == ("all installed mine True", "True")
