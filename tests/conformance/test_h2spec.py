"""h2spec, the HTTP/2 conformance suite, against the broker's HTTP/2 core behind its gRPC front end."""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.peers.grpc_server import EchoServer
from tests.support.root import ROOT

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec@latest"
TOOLS = ROOT / ".tools" / "bin"
INSTALL_TIMEOUT = 110
"""Seconds."""


@pytest.fixture(scope="session")
def h2spec() -> str:
    """Find h2spec in the PATH, in Go's folder or in ours, or install it there."""
    go = shutil.which("go")
    places = [os.environ.get("PATH", ""), str(TOOLS)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
        places.append(str(Path(gopath) / "bin"))
    found = shutil.which("h2spec", path=os.pathsep.join(places))
    if found:
        return found
    if not go:
        reason = "h2spec is not installed, and there is no Go to install it with"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    TOOLS.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(TOOLS)}
    subprocess.run([go, "install", H2SPEC], env=environment, check=True, timeout=INSTALL_TIMEOUT)
    return str(TOOLS / "h2spec")


def run_h2spec(program: str, report: Path) -> tuple[int, set[str]]:
    """Run all cases; return how many ran, and the names of those that failed or were skipped."""
    with EchoServer() as server:
        host, _, port = server.target.rpartition(":")
        command = [program, "-h", host, "-p", port, "-o", "5", "-j", str(report)]
        subprocess.run(command, capture_output=True, timeout=100, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = {case.attrib["classname"] for case in cases if any(case.find(tag) is not None for tag in PROBLEMS)}
    return len(cases), bad


PROBLEMS = ("failure", "error", "skipped")


def test_all_cases_pass(h2spec: str, tmp_path: Path) -> None:
    count, bad = run_h2spec(h2spec, tmp_path / "report.xml")
    assert bad == set()
    assert count >= 145
