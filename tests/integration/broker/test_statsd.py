"""`--statsd-host`: numbers of a real broker, received by a real UDP socket."""

import re
import socket
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import running_broker
from tests.support.root import ROOT
from tykpy.broker.grpc.wire import GrpcCallError

HOOKS: Final = """
from tyk.decorators import Pre

@Pre
def fine(request, session, spec):
    return request, session

@Pre
def raises(request, session, spec):
    raise ValueError("no")
"""
FILES: Final = {"hooks.py": HOOKS}
DOC: Final = (ROOT / "docs" / "monitoring.md").read_text()


def test_every_dispatch_is_reported(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        flags = ("--statsd-host", f"127.0.0.1:{server.getsockname()[1]}", "--statsd-prefix", "web1")
        with running_broker(tmp_path, *flags, files=FILES) as broker:
            for _ in range(5):
                broker.call("fine", bundle="hooks.py")
            with pytest.raises(GrpcCallError):
                broker.call("raises", bundle="hooks.py")
            lines = _received(server)
        # The last report is sent at the end of the broker.
        server.settimeout(0)
        while (more := _received(server)) != []:
            lines += more
    assert _total(lines, "web1.tykpy.requests") == 6
    assert _total(lines, "web1.tykpy.request.status.OK") == 5
    assert _total(lines, "web1.tykpy.request.status.INTERNAL") == 1
    assert "web1.tykpy.workers_wanted:1|g" in lines
    assert any(re.fullmatch(r"web1\.tykpy\.request\.duration:[\d.]+\|ms\|@[\d.]+", line) for line in lines)
    for line in lines:
        name = line.removeprefix("web1.").split(":")[0]
        documented = {name, *(re.sub(r"\.\w+$", f".{word}", name) for word in ("CODE", "REASON", "RESULT"))}
        assert any(f"`{one}`" in DOC for one in documented), f"{name} is not in docs/monitoring.md"


def test_a_server_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--statsd-host", "nowhere.invalid:8125", files=FILES) as broker:
        broker.wait_for_log("cannot send metrics to StatsD at nowhere.invalid:8125")
        broker.call("fine", bundle="hooks.py")
        assert broker.stop() == 0


def _received(server: socket.socket) -> list[str]:
    try:
        return server.recv(65_535).decode().split("\n")
    except BlockingIOError:
        return []


def _total(lines: list[str], name: str) -> int:
    return sum(int(found[1]) for line in lines if (found := re.fullmatch(rf"{re.escape(name)}:(\d+)\|c", line)))
