"""The page of --admin-page, over HTTP and in a real browser."""

import contextlib
import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, wait_until
from tests.support.browser import CHROMIUM, NEEDS_CHROMIUM
from tests.support.held_thread import event_loop_held
from tests.support.metrics import MeteredBroker, Metrics, UnixHttp
from tests.support.peers.redis_server import free_port
from tykpy.telemetry.snapshot import STUCK_SECONDS

HOSTILE = "<img src=x onerror=console.error('run')><script>console.error('run')</script>"
HOOKS = f"""
from tyk.decorators import Pre

@Pre
def fine(request, session, spec):
    return request, session

def hostile(request, session, spec):
    return request, session

hostile.__name__ = {HOSTILE!r}
Pre(hostile)
"""


class PagedBroker(RunningBroker):
    """A broker with a page."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(folder, "--admin-page", "--metrics", f"tcp://127.0.0.1:{self.port}")

    def get(self, path: str, timeout: float = PATIENCE) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body. Raises OSError."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()

    def live(self) -> dict[str, Any]:
        """Return what the page fetches."""
        found: dict[str, Any] = json.loads(self.get("/live.json")[2])
        return found

    def top(self, *flags: str) -> str:
        """Return what `tykpy top --once` prints."""
        command = [TYKPY, "top", "--once", *flags, "--runtime-dir", str(self.runtime)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagedBroker]:
    one = PagedBroker(tmp_path_factory.mktemp("page"))
    one.add_file("orders.py", HOOKS)
    with one:
        for name in ("fine", HOSTILE):
            one.call(name, bundle="orders.py")
        wait_until(lambda: len(one.live()["view"]["hooks"]) >= 2, lambda: str(one.live()))
        yield one


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/live.json"])
def test_every_part_forbids_what_it_does_not_need(broker: PagedBroker, path: str) -> None:
    status, headers, body = broker.get(path)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not set(re.findall(r"https?://[^\"' ]+", body)) - {"http://www.w3.org/2000/svg"}, "an external resource"


def test_the_page_shows_what_top_shows(broker: PagedBroker) -> None:
    live = broker.live()
    assert live["view"].keys() == json.loads(broker.top("--json")).keys()
    assert live["view"]["pid"] == broker.pid
    assert live["kept_seconds"] == 900
    before = len(live["points"])
    wait_until(lambda: len(broker.live()["points"]) > before, lambda: str(broker.live()))


def test_without_the_flag_there_is_no_page(tmp_path: Path) -> None:
    with MeteredBroker(tmp_path) as broker, contextlib.closing(UnixHttp(broker.http_socket)) as connection:
        assert connection.get("/").status == 404


def test_the_page_needs_an_address(tmp_path: Path) -> None:
    command = [TYKPY, "broker", "--admin-page", "--runtime-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--admin-page needs --metrics" in done.stderr


def browse(url: str, folder: Path) -> tuple[str, list[str]]:
    """Load a page; return what it has become, and what the browser's console has."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=3000",
            "--dump-dom", url,
        ],
        capture_output=True, text=True, check=True, timeout=90,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@NEEDS_CHROMIUM
def test_a_browser_shows_hooks_and_runs_nothing_of_theirs(broker: PagedBroker, tmp_path: Path) -> None:
    page, messages = browse(f"http://127.0.0.1:{broker.port}/", tmp_path)
    broken = folder_with_inline_script(tmp_path)
    assert browse(broken.as_uri(), tmp_path)[1], "the console is not seen"
    assert re.search(r'<span class="quiet">orders.py</span><span>fine</span>', page)
    assert "&lt;script&gt;console.error('run')&lt;/script&gt;" in page
    assert "<img" not in page
    assert page.count("<figure>") == 4
    assert "has not turned" not in page
    assert messages == []


def test_a_stuck_event_loop_shows_everywhere(broker: PagedBroker, tmp_path: Path) -> None:
    """The thread that serves the page answers with the last numbers, `tykpy top` reads them from shared memory."""
    with event_loop_held(broker.pid, lambda: broker.get("/livez", timeout=5)):
        wait_until(lambda: broker.live()["view"]["stuck"], lambda: str(broker.live()))
        status, _, text = broker.get("/livez")
        assert status == 503
        assert "the event loop has not turned for" in text
        status, _, text = broker.get("/readyz")
        assert status == 503
        assert [one["reason"] for one in json.loads(text)["reasons"]] == ["event_loop"]
        assert Metrics(broker.get("/metrics")[2])("tykpy_snapshot_age_seconds") >= STUCK_SECONDS
        assert "event loop has not turned for" in broker.top()
        if CHROMIUM is not None:
            page, _ = browse(f"http://127.0.0.1:{broker.port}/", tmp_path)
            assert re.search(r"The event loop has not turned for \d+ s: the numbers below are from then", page)
            assert "<span>fine</span>" in page
    wait_until(lambda: broker.get("/readyz")[0] == 200, lambda: broker.get("/readyz")[2])
    assert not broker.live()["view"]["stuck"]


def folder_with_inline_script(folder: Path) -> Path:
    """Return a page whose console has an error."""
    path = folder / "page.html"
    path.write_text("<script>console.error('seen')</script>")
    return path
