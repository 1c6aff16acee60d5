"""`tykpy new`: what it creates passes every check, and its hooks run in a broker."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.broker import PATIENCE, TYKPY, running_broker
from tests.support.installed import check_types, installed

OPENAPI = """
openapi: 3.0.3
info: {title: Pet Store, version: "1"}
paths:
  /pets/{petId}:
    get: {operationId: getPet}
  /pets/{petId}/a-path-that-makes-the-line-of-its-operation-longer-than-what-the-linter-of-the-bundle-accepts/{part}:
    delete: {}
x-tyk-api-gateway:
  server: {listenPath: {value: "/it's/", strip: true}}
"""
ALL_HOOKS = "pre,auth,post-key-auth,post,response,event"


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder and return what it prints. Raises AssertionError if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check(bundle: Path) -> None:
    """Run everything that the bundle's README and pyproject.toml promise."""
    pytest.importorskip("mypy")
    module = (sys.executable, "-m")
    assert "passed" in run(bundle, *module, "pytest", "-q", "-p", "no:cacheprovider")
    check_types(bundle, installed(bundle.parent / "installed"))
    run(bundle, *module, "ruff", "check", "--no-cache")
    run(bundle, *module, "ruff", "format", "--check", "--no-cache")
    assert "nothing found in" in run(bundle, TYKPY, "lint", ".")
    assert "\nok" in run(bundle, TYKPY, "check-config", "--bundles", ".", "--load")
    assert "note" not in run(bundle, TYKPY, "bundle", "build", ".", "-o", "../mine.zip")
    assert "OK" in run(bundle, TYKPY, "bundle", "verify", "../mine.zip").upper()
    json.loads((bundle / ".vscode" / "launch.json").read_text())


def test_a_new_bundle_passes_its_checks(tmp_path: Path) -> None:
    run(tmp_path, TYKPY, "new", "mine", "--hooks", ALL_HOOKS)
    check(tmp_path / "mine")


def test_a_bundle_of_an_api_passes_its_checks(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI)
    printed = run(tmp_path, TYKPY, "new", "--from-openapi", "api.yaml")
    assert "created pet-store:\n" in printed
    assert "curl 'http://localhost:8080/it'\"'\"'s/'" in printed
    check(tmp_path / "pet-store")


def test_hooks_of_new_bundles_run_in_a_broker(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "api.yaml").write_text(OPENAPI)
    for name, flags in (("all", ["--hooks", ALL_HOOKS]), ("api", ["--from-openapi", "../api.yaml", "--hooks", "post"])):
        run(tmp_path / "bundles", TYKPY, "new", name, *flags)
    (key,) = re.findall(r'KEYS = {"(\w+)"', (tmp_path / "bundles" / "all" / "middleware.py").read_text())
    with running_broker(tmp_path, files={}) as broker:
        named = broker.call("name_operation", bundle="api", hook_type="Pre", url="/it's/pets/7?full=1")
        assert dict(named.request.set_headers) == {"X-Operation": "getPet"}
        known = broker.call("check_key", bundle="all", hook_type="CustomKeyCheck", headers=(("Authorization", key),))
        assert known.session.metadata["token"] == key
        refused = broker.call("check_key", bundle="all", hook_type="CustomKeyCheck")
        assert refused.request.return_overrides.response_code == 401
        hidden = broker.call("hide_server", bundle="all", hook_type="Response", response_headers=(("Server", "x"),))
        assert "Server" not in hidden.response.headers
