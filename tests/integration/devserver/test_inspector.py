"""The inspector of `tykpy dev`: what its page fetches, what it copies, and the page itself in a browser."""

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.broker import PATIENCE, wait_until
from tests.support.browser import NEEDS_CHROMIUM, Page, browsing
from tests.support.bundles import write_bundle
from tests.support.dev_command import DevCommand
from tests.support.installed import check_types, installed

HOSTILE = "<img src=x onerror=console.error('run')><script>console.error('run')</script>"
SECRET = "a-secret-value"
HOOKS = f"""
from gateway import TykGateway as tyk

@Pre
def note(request, session, spec):
    print({HOSTILE!r})
    request.add_header("X-Note", "it's")
    request.delete_param("debug")
    request.object.body = "ignored"
    tyk.trigger_event("seen", {{"path": {HOSTILE!r}}})
    return request, session

@Pre
def maybe(request, session, spec):
    password, mark = "hunter2", {HOSTILE!r}
    if request.get_header("X-Fail"):
        raise ValueError({HOSTILE!r})
    return request, session

@Response
def tidy(request, response, session, metadata, spec):
    response.headers.pop("Content-Type")
    return response

@Event
def seen(event, spec):
    print("seen")
"""


class Inspected(DevCommand):
    """`tykpy dev` with its inspector."""

    def json(self, path: str) -> Any:
        """Return what the page fetches from below `requests`."""
        return self.get(f"/__tykpy/requests{path}").json

    def text(self, path: str) -> str:
        """Return a text below `requests`."""
        return self.get(f"/__tykpy/requests{path}").body.decode()

    def copied_test(self) -> str:
        """Return the newest request as a test, when its event handler has ended."""
        path = f"/{self.newest}"
        wait_until(lambda: bool(self.json(path)["events"]), lambda: f"the handler has ended: {self.output}")
        return self.text(f"{path}/test")

    @property
    def newest(self) -> int:
        """The number of the last request."""
        number: int = self.json("")["requests"][0]["number"]
        return number


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspector") / "bundle"
    files = {"middleware.py": HOOKS}
    return write_bundle(folder, files, pre=[{"name": "note"}, {"name": "maybe"}], response=[{"name": "tidy"}])


@pytest.fixture(scope="module")
def dev(bundle: Path) -> Iterator[Inspected]:
    with Inspected(bundle, bundle.parent / "log") as running:
        yield running


@pytest.mark.parametrize("path", ["", "/", "/page.js", "/page.css", "/requests"])
def test_every_part_forbids_what_it_does_not_need(dev: Inspected, path: str) -> None:
    answer = dev.get(f"/__tykpy{path}")
    assert answer.status == 200
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.findall(r"https?://", answer.body.decode()), "an external resource"


def test_a_request_is_shown_with_all_that_happened(dev: Inspected) -> None:
    dev.get("/orders?debug=1", "POST", b"text", Authorization="Bearer abcdef", X_Fail="")
    number = dev.newest
    shown = dev.json(f"/{number}")
    assert (shown["method"], shown["url"], shown["status"], shown["api"]) == ("POST", "/orders?debug=1", 200, "bundle")
    note, maybe, upstream, tidy = shown["steps"]
    assert [(change["path"], change["before"], change["after"]) for change in note["changes"]] == [
        ("request.body", "'text'", "'ignored'"),
        ("request.set_headers['X-Note']", None, '"it\'s"'),
        ("request.delete_params[0]", None, "'debug'"),
    ]
    assert note["printed"] == [{"source": "stdout", "text": HOSTILE}]
    assert note["ignored"][0]["rule"] == "request-body"
    assert note["triggered"][0]["name"] == "seen"
    assert (maybe["changes"], upstream["stage"], tidy["hook_type"]) == ([], "upstream", "Response")
    assert [message["name"] for message in shown["messages"]] == ["request", "sent", "received", "response"]
    assert "abcdef" not in json.dumps(shown)
    assert "abcdef" in json.dumps(dev.json(f"/{number}?secrets=1"))
    assert dev.json(f"/{number}/trace")["request"]["body"] == "text"
    body = dev.get(f"/__tykpy/requests/{number}/bodies/request")
    assert (body.body, body.headers["Content-Type"]) == (b"text", "application/octet-stream")
    assert body.headers["Content-Disposition"].startswith("attachment")


def test_large_parts_are_cut(dev: Inspected) -> None:
    dev.get("/large", "POST", b"x" * 1_000_000)
    page = dev.get(f"/__tykpy/requests/{dev.newest}")
    assert len(page.body) < 500_000
    request = page.json["messages"][0]
    assert (request["size"], request["is_cut"]) == (1_000_000, True)
    assert len(dev.get(f"/__tykpy/requests/{dev.newest}/bodies/request").body) == 1_000_000


def test_a_page_is_told_of_news(dev: Inspected) -> None:
    dev.get("/before")
    with ThreadPoolExecutor(1) as thread:
        before = dev.json("")
        waiting = thread.submit(dev.json, f"?since={before['revision']}")
        dev.get("/news")
        news = waiting.result(PATIENCE)
    assert news["revision"] > before["revision"]


def test_a_waiting_page_is_answered_at_the_end(bundle: Path, tmp_path: Path) -> None:
    with Inspected(bundle, tmp_path / "log") as dev:
        page = http.client.HTTPConnection("127.0.0.1", dev.port, timeout=PATIENCE)
        page.request("GET", f"/__tykpy/requests?since={dev.json('')['revision']}")
        # The page's request was sent before this one, so it has been read when this one is answered.
        dev.json("")
    with contextlib.closing(page):
        assert json.loads(page.getresponse().read())["requests"] == []


@pytest.mark.parametrize("path", ["999999999", "999999999/curl", "1/bodies/none", "abc", "-1", "9" * 40])
def test_what_is_not_there_is_told(dev: Inspected, path: str) -> None:
    assert dev.get(f"/__tykpy/requests/{path}").status == 404


def test_send_again_needs_a_header_and_our_origin(dev: Inspected) -> None:
    dev.get("/again?a=1", "PUT", b"\xff\x00", X_One="1")
    first = dev.newest
    path = f"/__tykpy/requests/{first}/send"
    assert dev.get(path, "POST").status == 403
    assert dev.get(path, "POST", X_Tykpy="1", Origin="http://evil.example").status == 403
    assert dev.newest == first
    assert dev.get(path, "POST", X_Tykpy="1", Origin=f"http://127.0.0.1:{dev.port}").json == {"number": first + 1}
    assert dev.json(f"/{first + 1}/trace")["request"] == dev.json(f"/{first}/trace")["request"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("method", "url", "body", "header"),
    [
        ("GET", "/a/../b?x=[1-3]&y={a,b}", b"", 'it\'s "quoted" $(id) `id` !x \\'),
        ("HEAD", "/head", b"", "-H"),
        ("POST", "/text", "@/etc/passwd\n'$HOME' \\n ü\t\x1b[201~; id\n".encode(), ""),
        ("DELETE", "/binary", b"\x00\xff'\n", "\xe9"),
        ("POST", "/long", b"long " * 60_000, "x"),
        ("-d", "/'", b"a=b", "x"),
    ],
)
def test_copy_as_curl_sends_the_same(dev: Inspected, method: str, url: str, body: bytes, header: str) -> None:
    dev.get(url, method, body or None, X_Header=header, X_Empty="")
    number = dev.newest
    command = dev.text(f"/{number}/curl")
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=PATIENCE)
    first, again = dev.json(f"/{number}/trace")["request"], dev.json(f"/{number + 1}/trace")["request"]
    assert (again["method"], again["url"], again["host"], again["body"]) == (
        first["method"], first["url"], first["host"], first["body"],
    )  # fmt: skip
    assert sorted(again["headers"]) == sorted(first["headers"])


def test_a_copied_test_passes_where_the_hooks_are(dev: Inspected, bundle: Path, tmp_path: Path) -> None:
    dev.get("/orders?debug=1", "POST", b'{"a": "\'"}', Authorization="Bearer abcdef", X_Long="long " * 20, X_One="1")
    (tmp_path / "test_passes.py").write_text(dev.copied_test())
    dev.get('/"""/fails', X_Fail="yes")
    (tmp_path / "test_fails.py").write_text(dev.copied_test())
    source = (bundle / "middleware.py").read_text()
    (tmp_path / "middleware.py").write_text(source)
    assert "2 passed" in run_pytest(tmp_path)
    for before, after in (
        ("it's", "its"),
        ('trigger_event("seen"', 'trigger_event("other"'),
        ('print("seen")', "event.message.missing"),
    ):
        (tmp_path / "middleware.py").write_text(source.replace(before, after))
        assert "2 failed" in run_pytest(tmp_path)
    (tmp_path / "middleware.pyi").write_text("from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n")
    check_types(tmp_path, installed(tmp_path / ".venv"), "test_passes.py", "test_fails.py")
    for command in (["check", "--select", "E,W,F,I,UP,B,ANN,SIM,RET"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--config", "line-length = 120"]
        done = subprocess.run([*ruff, "test_passes.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def run_pytest(folder: Path) -> str:
    """Run the tests of a folder and return the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout


@NEEDS_CHROMIUM
def test_a_browser_shows_a_broken_save(tmp_path: Path) -> None:
    asyncio.run(_break(tmp_path))


async def _break(folder: Path) -> None:
    source = folder / "hooks.py"
    source.write_text(HOOKS.replace("from gateway", "from tyk.decorators import Event, Pre, Response\nfrom gateway"))
    with Inspected(source, folder / "log") as dev:
        async with browsing(folder) as page:
            await page.go(f"http://localhost:{dev.port}/__tykpy")
            await page.wait_for("document.body.innerText.includes('No requests yet')")
            source.write_text("def broken(:\n")
            await page.wait_for("document.getElementById('notices').innerText.includes('hooks.py:1: SyntaxError')")
            assert page.complaints == []


@NEEDS_CHROMIUM
def test_a_browser_inspects_sends_again_and_copies(dev: Inspected, tmp_path: Path) -> None:
    asyncio.run(_inspect(dev, tmp_path))


async def _inspect(dev: Inspected, folder: Path) -> None:
    dev.get(
        f"/{quote(HOSTILE, safe='<>=()')}?{HOSTILE.replace(' ', '+')}",
        "POST",
        HOSTILE.encode(),
        X_Fail=HOSTILE,
        X_Token=SECRET,
    )
    number = dev.newest
    origin = f"http://localhost:{dev.port}"
    async with browsing(folder, clipboard_of=origin) as page:
        await page.go(f"{origin}/__tykpy")
        await page.wait_for(f"document.querySelector('#list a[href=\"#{number}\"]') !== null")
        await page.evaluate(f"document.querySelector('#list a[href=\"#{number}\"]').click()")
        await page.wait_for("document.querySelector('.problem') !== null")
        text = await page.evaluate("document.body.innerText")
        assert text.count(HOSTILE) >= 3
        assert "hunter2" not in text.replace('password, mark = "hunter2"', "")
        assert SECRET not in text
        await page.evaluate("document.getElementById('secrets').click()")
        await page.wait_for(f"document.getElementById('details').textContent.includes('{SECRET}')")
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        await _press(page, "Send again")
        await page.wait_for(f"location.hash === '#{number + 1}'")
        await page.wait_for(f"document.querySelector('#list a[aria-current]')?.hash === '#{number + 1}'")
        await page.wait_for("document.querySelector('h2')?.textContent.startsWith('POST')")
        for button, path in (("Copy as curl", "curl"), ("Copy as test", "test")):
            await page.evaluate("navigator.clipboard.writeText('')")
            await _press(page, button)
            copied = await page.wait_for("navigator.clipboard.readText()")
            expected = await page.evaluate(f"fetch('/__tykpy/requests/{number + 1}/{path}').then((one) => one.text())")
            assert copied == expected
        await page.evaluate("navigator.clipboard.writeText = () => Promise.reject()")
        await _press(page, "Copy as test")
        assert await page.wait_for("document.querySelector('dialog[open] textarea')?.value") == expected
        await page.evaluate("document.querySelector('dialog button').click()")
        await asyncio.to_thread(dev.get, "/live")
        await page.wait_for("document.querySelector('#list .path').textContent === '/live'")
        assert page.complaints == []


async def _press(page: Page, text: str) -> None:
    button = f"[...document.querySelectorAll('.actions button')].find((one) => one.textContent === '{text}')"
    await page.wait_for(f"{button} !== undefined && !{button}.disabled")
    await page.evaluate(f"{button}.click()")
