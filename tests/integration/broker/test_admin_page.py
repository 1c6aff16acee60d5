"""The page of --admin-page, over HTTP and in a real browser."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY, RunningBroker, wait_until
from tests.support.metrics import MeteredBroker, UnixHttp
from tests.support.peers.redis_server import free_port

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
CHROMIUM = shutil.which("chromium")


class PagedBroker(MeteredBroker):
    """A broker with a page, on a Unix socket."""

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body."""
        with contextlib.closing(UnixHttp(self.http_socket)) as connection:
            response = connection.get(path)
            return response.status, dict(response.getheaders()), response.read().decode()

    def live(self) -> dict[str, Any]:
        """Return what the page fetches."""
        found: dict[str, Any] = json.loads(self.get("/live.json")[2])
        return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagedBroker]:
    one = PagedBroker(tmp_path_factory.mktemp("page"), "--admin-page")
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
    done = subprocess.run(
        [TYKPY, "top", "--once", "--json", "--runtime-dir", str(broker.runtime)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    live = broker.live()
    assert live["view"].keys() == json.loads(done.stdout).keys()
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


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (scripts/install-proxies)")
def test_a_browser_shows_hooks_and_runs_nothing_of_theirs(tmp_path: Path) -> None:
    port = free_port()
    with RunningBroker(tmp_path, "--admin-page", "--metrics", f"tcp://127.0.0.1:{port}") as broker:
        broker.add_file("orders.py", HOOKS)
        with broker.admin() as client:
            client.call("reload")
        for name in ("fine", HOSTILE):
            broker.call(name, bundle="orders.py")
        url = f"http://127.0.0.1:{port}/"

        def hooks() -> int:
            with urllib.request.urlopen(f"{url}live.json", timeout=30) as answer:
                return len(json.load(answer)["view"]["hooks"])

        wait_until(lambda: hooks() >= 2, lambda: broker.log)
        page, messages = browse(url, tmp_path)
        broken = folder_with_inline_script(tmp_path)
        assert browse(broken.as_uri(), tmp_path)[1], "the console is not seen"
    assert re.search(r'<span class="quiet">orders.py</span><span>fine</span>', page)
    assert "&lt;script&gt;console.error('run')&lt;/script&gt;" in page
    assert "<img" not in page
    assert page.count("<figure>") == 4
    assert messages == []


def folder_with_inline_script(folder: Path) -> Path:
    """Return a page whose console has an error."""
    path = folder / "page.html"
    path.write_text("<script>console.error('seen')</script>")
    return path
