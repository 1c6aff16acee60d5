"""Names of bundles from `--apis`, in the log, `hooks`, `reload` and `status`."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY, RunningBroker, wait_until
from tests.support.bundles import md5, write_bundle
from tykpy.broker.grpc.wire import GrpcCallError

HOOKS = """
from gateway import TykGateway

@Pre
def fine(request, session, spec):
    return request, session

@Pre
def tells(request, session, spec):
    TykGateway.log("this is " + spec["bundle_hash"], "info")
    return request, session

@Pre
def raises(request, session, spec):
    raise ValueError("on purpose")
"""
SOUND, BROKEN, BOTH, UNDEFINED, LATE = map(md5, ("sound.zip", "broken.zip", "a.zip,b.zip", "undefined.zip", "late.zip"))


def classic(api_id: str, name: str, bundle: str, **more: Any) -> dict[str, Any]:
    return {"api_id": api_id, "name": name, "custom_middleware_bundle": bundle, **more}


def oas(api_id: str, name: str, bundle: str, enabled: bool = True) -> dict[str, Any]:
    return {
        "openapi": "3.0.3",
        "info": {"title": "t", "version": "1"},
        "paths": {},
        "x-tyk-api-gateway": {
            "info": {"id": api_id, "name": name},
            "middleware": {
                "global": {"pluginConfig": {"driver": "grpc", "bundle": {"enabled": enabled, "path": bundle}}}
            },
        },
    }


DEFINITIONS: dict[str, object] = {
    "pets.json": classic("id-pets", "Pets", "sound.zip"),
    "orders.json": classic("id-orders", "Orders", "sound.zip", is_oas=True),
    "orders-oas.json": oas("id-orders", "Orders", "sound.zip"),
    "broken.json": classic("id-broken", "Accounts", "broken.zip"),
    "both.json": classic("id-both", "Both", "a.zip,b.zip"),
    "only-oas.json": oas("id-named", "By name", "named.zip"),
    "disabled.json": classic("id-off", "Off", "sound.zip", custom_middleware_bundle_disabled=True),
    "disabled-oas.json": oas("id-off-oas", "Off too", "sound.zip", enabled=False),
    "without.json": {"api_id": "id-without", "name": "Without", "custom_middleware_bundle": ""},
    "wrong.json": ["no", "definition"],
}


def write_definition(folder: Path, name: str, definition: object) -> None:
    (folder / name).write_text(json.dumps(definition))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("names")
    apis = folder / "apps"
    apis.mkdir()
    for name, definition in DEFINITIONS.items():
        write_definition(apis, name, definition)
    broker = RunningBroker(folder, "--apis", str(apis), workers=2)
    for name in (SOUND, "named", UNDEFINED):
        write_bundle(broker.bundles / name, {"middleware.py": HOOKS})
    write_bundle(broker.bundles / BROKEN, {"middleware.py": "import nowhere"})
    for part in ("a", "b"):
        write_bundle(broker.bundles / BOTH / part, {"middleware.py": HOOKS})
    (broker.bundles / "half").mkdir()
    broker.add_file("conftest.py", "import pytest")
    with broker:
        yield broker


def run(broker: RunningBroker, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [TYKPY, *arguments, "--runtime-dir", str(broker.runtime)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def row(table: str, bundle: str) -> list[str]:
    """Return the cells of a bundle's first row."""
    return next(re.split(r" {2,}", line) for line in table.splitlines() if line.startswith(f"{bundle} "))


def test_hooks_lists_every_bundle_with_its_name_and_apis(broker: RunningBroker) -> None:
    shown = run(broker, "hooks", code=1)
    assert row(shown.stdout, SOUND) == [SOUND, "sound.zip", "Orders, Pets", "3", "loaded"]
    assert row(shown.stdout, BOTH) == [BOTH, "a.zip,b.zip", "Both", "6", "loaded"]
    assert row(shown.stdout, "named") == ["named", "named.zip", "By name", "3", "loaded"]
    assert row(shown.stdout, BROKEN) == [BROKEN, "broken.zip", "Accounts", "0", "broken"]
    assert row(shown.stdout, "half") == ["half", "0", "not loaded: no manifest.json in it (yet)"]
    assert "conftest" not in shown.stdout
    assert f"problem: bundle {BROKEN} (broken.zip; API Accounts): " in shown.stderr


def test_a_folder_is_listed_in_the_same_way(broker: RunningBroker) -> None:
    folders = ["--bundles", str(broker.bundles), "--apis", str(broker.folder / "apps")]
    shown = run(broker, "hooks", *folders, code=1)
    live = run(broker, "hooks", code=1)
    heading, *rows = shown.stdout.splitlines()
    assert heading == live.stdout.splitlines()[0]
    assert sorted(rows) == sorted(live.stdout.splitlines()[1:])
    assert "wrong.json cannot be read" in shown.stderr
    assert shown.stderr.endswith(live.stderr)


def test_check_config_names_it_and_looks_for_definitions(broker: RunningBroker, tmp_path: Path) -> None:
    def problems(apis: Path) -> str:
        flags = ["--runtime-dir", str(tmp_path / "run"), "--bundles", str(broker.bundles), "--apis", str(apis)]
        done = subprocess.run(
            [TYKPY, "check-config", "--load", *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 1
        return done.stdout

    assert f"problem: bundle {BROKEN} (broken.zip; API Accounts): " in problems(broker.folder / "apps")
    none = tmp_path / "none"
    assert f"problem: --apis {none} cannot be read: No such file or directory" in problems(none)


def test_a_broken_bundle_is_one_error_with_its_name(broker: RunningBroker) -> None:
    errors = [line for line in broker.log.splitlines() if " ERROR " in line and BROKEN in line]
    assert len(errors) == 1
    assert f"bundle {BROKEN} (broken.zip; API Accounts): " in errors[0]


def test_every_kind_of_broken_bundle_is_one_error(tmp_path: Path) -> None:
    """There is not one error per worker, even if each has another reason."""
    broker = RunningBroker(tmp_path, workers=3)
    sources = {
        "raises.py": "import os\nraise ValueError(f'in process {os.getpid()}')",
        "syntax.py": "from tyk.decorators import *\ndef (",
        "exits.py": "from tyk.decorators import *\nimport os\nos._exit(3)",
        "shape.py": "from tyk.decorators import *\n@Pre\ndef hook(one):\n    pass",
    }
    for name, source in sources.items():
        broker.add_file(name, source)
    broker.add_file("json/manifest.json", "{")
    with broker:
        errors = [line for line in broker.log.splitlines() if " ERROR " in line]
    named = sorted(re.findall(r"bundle (\S+):", "\n".join(errors)))
    assert named == sorted([*sources, "json"]), errors
    assert len(errors) == len(named)


def test_workers_name_it_in_the_log(broker: RunningBroker) -> None:
    with pytest.raises(GrpcCallError, match="on purpose"):
        broker.call("raises", bundle=SOUND)
    broker.wait_for_log(f"hook raises of bundle {SOUND} (sound.zip; APIs Orders, Pets) failed")


def test_unreadable_definition_is_reported_once(broker: RunningBroker) -> None:
    run(broker, "hooks", code=1)
    assert broker.log.count("wrong.json cannot be read") == 1


def test_calls_tell_the_api_without_a_definition(broker: RunningBroker) -> None:
    broker.call("fine", bundle=UNDEFINED, spec={"APIID": "id-seen"})
    assert row(run(broker, "hooks", code=1).stdout, UNDEFINED)[1:3] == ["id-seen", "3"]

    def named_in_a_worker() -> bool:
        broker.call("tells", bundle=UNDEFINED, spec={"APIID": "id-seen"})
        return f"this is {UNDEFINED} (API id-seen)" in broker.log

    wait_until(named_in_a_worker, lambda: broker.log)


def test_status_and_reload_name_it(broker: RunningBroker) -> None:
    (sound,) = [bundle for bundle in broker.status()["bundles"] if bundle["name"] == SOUND]
    assert sound["bundle"] == "sound.zip"
    assert sound["apis"] == [{"id": "id-orders", "name": "Orders"}, {"id": "id-pets", "name": "Pets"}]
    answer = run(broker, "reload")
    assert row(answer.stdout, SOUND) == [SOUND, "sound.zip", "Orders, Pets", "same", "3"]
    assert f"problem: bundle {BROKEN} (broken.zip; API Accounts): " in answer.stderr


def test_new_definitions_are_read_when_they_matter(broker: RunningBroker) -> None:
    """A new bundle is named in the log at once: the gateway read the definition before."""
    write_definition(broker.folder / "apps", "late.json", classic("id-late", "Late", "late.zip"))
    write_bundle(broker.bundles / LATE, {"middleware.py": HOOKS})
    broker.wait_for_log(f"new workers load {LATE} (late.zip; API Late): ")
    broker.wait_for_log(f"loaded: {LATE} (late.zip; API Late) new")
    write_definition(broker.folder / "apps", "late.json", classic("id-late", "Renamed", "late.zip"))
    wait_until(lambda: "Renamed" in run(broker, "hooks", code=1).stdout, lambda: broker.log)

    def renamed_in_a_worker() -> bool:
        broker.call("tells", bundle=LATE)
        return f"this is {LATE} (late.zip; API Renamed)" in broker.log

    wait_until(renamed_in_a_worker, lambda: broker.log)


def test_a_refused_reload_names_it(broker: RunningBroker) -> None:
    file = broker.bundles / SOUND / "middleware.py"
    before = file.read_text()
    file.write_text("import nowhere")
    try:
        refused = run(broker, "reload", code=1)
    finally:
        file.write_text(before)
    assert f"bundle {SOUND} (sound.zip; APIs Orders, Pets): " in refused.stderr
