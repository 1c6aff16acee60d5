"""`tykpy lint`: every rule finds its case, at its place, and has no false findings."""

import ast
import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from tests.support.bundles import md5, write_bundle, write_zip
from tests.support.root import ROOT
from tykpy.bundles.bundle import BundlePart
from tykpy.bundles.loading import load_file
from tykpy.cli import main as tykpy
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.catalogue import RULES
from tykpy.commands.lint.findings import Finding
from tykpy.commands.lint.formats import as_console, as_github, as_sarif
from tykpy.commands.lint.lint import lint, lint_all

EXAMPLE = ROOT / "examples" / "bundles" / "example"


def lint_text(tmp_path: Path, text: str) -> list[Finding]:
    path = tmp_path / "hooks.py"
    path.write_text("from tyk.decorators import *; from tyk.decorators import Response\n" + dedent(text))
    return lint(path).findings


def load_text(tmp_path: Path) -> BundlePart:
    """Load what `lint_text` has looked at, as a worker does."""
    return load_file("mine", tmp_path / "hooks.py", str(tmp_path))


def rules(tmp_path: Path, text: str) -> list[str]:
    return [finding.rule for finding in lint_text(tmp_path, text)]


def in_hook(decorator: str, arguments: str, *lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"{decorator}\ndef hook({arguments}):\n{body}    return {RETURNED[arguments]}\n"


REQUEST = "request, session, spec"
FULL = "request, session, metadata, spec"
RESPONSE = "request, response, session, metadata, spec"
RETURNED = {
    REQUEST: "request, session",
    FULL: "request, session, metadata",
    RESPONSE: "response",
    "event, spec": "None",
}

FOUND = [
    ("@Pre", REQUEST, ['request.object.body = "x"'], "request-body"),
    ("@Pre", REQUEST, ['request.object.body += "x"'], "request-body"),
    ("@Pre", REQUEST, ['o = request.object; b, o.body = 1, "x"'], "request-body"),
    ("@Pre", REQUEST, ['request.object.headers["A"] = "1"'], "request-headers"),
    ("@Pre", REQUEST, ["h = request.object.headers", 'h.update({"A": "1"})'], "request-headers"),
    ("@Pre", REQUEST, ['if (h := request.object.headers): h.pop("A", None)'], "request-headers"),
    ("@Pre", REQUEST, ['del request.object.params["q"]'], "request-params"),
    ("@Pre", REQUEST, ['request.object.params["q"] = "1"'], "request-params"),
    ("@Pre", REQUEST, ['request.object.scheme = "https"'], "request-fixed"),
    ("@Pre", REQUEST, ['request.object.request_uri = "/"'], "request-fixed"),
    ("@Pre", REQUEST, ['request.object.url = "/x?a=1"'], "url-query"),
    ("@Pre", REQUEST, ['request.object.url = f"/x?a={spec}"'], "url-query"),
    ("@Pre", REQUEST, ['request.object.url += "?a=1"'], "url-query"),
    ("@Pre", REQUEST, ['url = "/x" + "?a"', "request.object.url = url"], "url-query"),
    ("@Pre", REQUEST, ["request.object.url = join(base, urlencode(more))"], "url-query"),
    ("@Pre", REQUEST, ['request.object.url = ""'], "url-empty"),
    ("@Pre", REQUEST, ['request.add_header("host", "a")'], "host"),
    ("@Pre", REQUEST, ['request.object.set_headers["Host"] = "a"'], "host"),
    ("@Pre", REQUEST, ["request.object.return_overrides.response_code = 99"], "override-code"),
    ("@Post", REQUEST, ["o = request.object.return_overrides", "o.response_code = 1000"], "override-code"),
    ("@Pre", REQUEST, ["session.rate = 1.0"], "session"),
    ("@Post", FULL, ['metadata["a"] = "b"'], "session"),
    ("@Post", FULL, ['session.metadata.update({"a": "b"})'], "session"),
    ("@PostKeyAuth", FULL, ['session.access_rights["1"].api_id = "1"'], "session"),
    ("@PostKeyAuth", FULL, ['session.tags.append("a")'], "session"),
    ("@CustomKeyCheck", FULL, ["session.rate = 1.0"], "no-token"),
    ("@CustomKeyCheck", REQUEST, ["print(request)"], "no-token"),
    ("@Response", RESPONSE, ['response.body = "x"'], "response-body"),
    ("@Response", RESPONSE, ["response.status_code = 0"], "response-status"),
    ("@Response", RESPONSE, ['new = ResponseObject(raw_body=b"")'], "response-status"),
    ("@Response", RESPONSE, ['request.add_header("a", "b")'], "response-request"),
    ("@Response", RESPONSE, ["request.object.return_overrides.response_code = 500"], "response-request"),
    ("@Pre(timeout=1)", REQUEST, ['request.object.body = "x"'], "request-body"),
]


@pytest.mark.parametrize(("decorator", "arguments", "lines", "rule"), FOUND, ids=["; ".join(row[2]) for row in FOUND])
def test_ignored_changes_are_found(tmp_path: Path, decorator: str, arguments: str, lines: list[str], rule: str) -> None:
    assert rules(tmp_path, in_hook(decorator, arguments, *lines)) == [rule]


TAKEN = [
    ("@Pre", REQUEST, ['request.object.raw_body = b"x"', 'request.object.body = "x"']),
    ("@Pre", REQUEST, ['request.add_header("a", "b")', 'request.object.url = "/x"', 'request.object.method = "GET"']),
    ("@Pre", REQUEST, ['request.object.return_overrides.headers["a"] = "b"']),
    ("@Pre", REQUEST, ["request.object.return_overrides.response_code = 100"]),
    ("@Pre", REQUEST, ["request.object.return_overrides.response_code = 999"]),
    ("@Pre", REQUEST, ['request.object.set_headers["X-Host"] = "a"']),
    ("@Pre", REQUEST, ['headers = request.object.headers["A"]', "headers = {}", 'headers["A"] = "1"']),
    ("@Pre", REQUEST, ["params = dict(request.object.params)", 'params["a"] = "1"']),
    ("@Pre", REQUEST, ["rate = session.rate", "rate += 1", 'known = session.metadata.get("a")']),
    ("@Hook", FULL, ["session.rate = 1.0"]),
    ("@CustomKeyCheck", FULL, ['metadata["token"] = "t"', "session.rate = 1.0"]),
    ("@CustomKeyCheck", REQUEST, ['session.metadata.update(token="t")']),
    ("@CustomKeyCheck", FULL, ["fill(session)"]),
    ("@CustomKeyCheck", FULL, ["session.CopyFrom(known_session())"]),
    ("@CustomKeyCheck", FULL, ["return request, known_session(), metadata"]),
    ("@CustomKeyCheck", FULL, ["return login(request)"]),
    ("@CustomKeyCheck", FULL, ["session = known_session()", "return request, session, metadata"]),
    ("@Response", RESPONSE, ['response.multivalue_headers.add(key="A", values=["1"])']),
    ("@Response", RESPONSE, ['response.headers["A"] = "1"', 'response.multivalue_headers.add(key="A", values=["1"])']),
    ("@Response", RESPONSE, ["response.status_code = 418", 'response.headers.pop("Server", None)']),
    ("@Response", RESPONSE, ["new = ResponseObject(status_code=200)", "other = ResponseObject(**given)"]),
    ("@Event", "event, spec", ['event.message = "x"']),
]


@pytest.mark.parametrize(("decorator", "arguments", "lines"), TAKEN, ids=["; ".join(row[2]) for row in TAKEN])
def test_effective_changes_are_left_alone(tmp_path: Path, decorator: str, arguments: str, lines: list[str]) -> None:
    assert rules(tmp_path, in_hook(decorator, arguments, *lines)) == []


def test_header_only_in_lists_is_found_if_the_map_changes(tmp_path: Path) -> None:
    lines = 'response.headers["A"] = "1"', 'response.multivalue_headers.append(Header(key="B", values=["1"]))'
    assert rules(tmp_path, in_hook("@Response", RESPONSE, *lines)) == ["response-headers"]


def test_finding_has_place_and_advice(tmp_path: Path) -> None:
    (finding,) = lint_text(tmp_path, in_hook("@Pre", REQUEST, "", 'request.object.body = "x"'))
    assert str(finding) == (
        f"{tmp_path}/hooks.py:5:5: request-body: "
        "the gateway ignores request.object.body; write request.object.raw_body = text.encode()"
    )


def test_functions_of_the_same_file_are_followed(tmp_path: Path) -> None:
    text = """
        @Pre
        def hook(request, session, spec):
            change(request, note=session)
            return request, session

        def change(req, note):
            req.object.headers["A"] = "1"
            change(req, note)
            note.rate = 1.0
    """
    assert rules(tmp_path, text) == ["request-headers", "session"]


def test_decorators_under_other_names(tmp_path: Path) -> None:
    text = """
        import tyk.decorators as deco
        from tyk.decorators import Pre as First

        @First
        def one(request, session, spec):
            session.rate = 1.0
            return request, session

        @deco.Post()
        async def two(request, session, spec):
            session.rate = 1.0
            return request, session
    """
    assert rules(tmp_path, text) == ["session", "session"]


def test_comment_allows_a_line(tmp_path: Path) -> None:
    lines = (
        "session.rate = 1.0  # tykpy: ignore",
        "session.per = 1.0  # tykpy: ignore[session]",
        "session.tags.append('x'); request.object.body = 'x'  # tykpy: ignore[session, request-body]",
        "note = '# tykpy: ignore'; session.alias = 'a'",
    )
    found = lint_text(tmp_path, in_hook("@Pre", REQUEST, *lines))
    assert [(finding.line, finding.rule) for finding in found] == [(7, "session")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "session.rate = 1.0  # tykpy: ignore[sesion]",
            ["session", "unknown-rule: there is no rule sesion; did you mean session?"],
        ),
        ("pass  # tykpy: ignore[x]", ["unknown-rule: there is no rule x; docs/lint lists all"]),
        ("pass  # noqa  # tykpy: ignore", ["unused-ignore: nothing is found on this line; remove the comment"]),
        ("pass  # tykpy: ignore[lock]", []),
        (
            "session.rate = 1.0  # tykpy: ignore[session, request-body]",
            ["unused-ignore: request-body finds nothing on this line; remove it from the comment"],
        ),
    ],
)
def test_mistakes_in_ignore_comments_are_found(tmp_path: Path, line: str, found: list[str]) -> None:
    """`lock` is a rule of `tykpy bundle convert`, which alone knows whether it is needed."""
    said = [str(finding).partition(": ")[2] for finding in lint_text(tmp_path, in_hook("@Pre", REQUEST, line))]
    assert [text if text in found else text.partition(":")[0] for text in said] == found


SETTINGS = "[tool.tykpy.lint]\nignore = [{}]\n"


def bundle_with_findings(folder: Path) -> Path:
    """Write a bundle with one finding in its manifest, and one that has a line."""
    code = in_hook("@Pre", REQUEST, "session.rate = 1.0")
    return write_bundle(folder, {"middleware.py": code}, pre=[{"name": "hook"}, {"name": "absent"}])


@pytest.mark.parametrize("place", ["bundle", "above"])
def test_a_project_ignores_rules(tmp_path: Path, place: str) -> None:
    bundle = bundle_with_findings(tmp_path / "mine")
    assert {finding.rule for finding in lint(bundle).findings} == {"hook-missing", "session"}
    (bundle if place == "bundle" else tmp_path).joinpath("pyproject.toml").write_text(SETTINGS.format("'hook-missing'"))
    assert [finding.rule for finding in lint(bundle).findings] == ["session"]
    assert [finding.rule for finding in lint(bundle / "middleware.py").findings] == ["session"]


def test_the_nearest_project_with_settings_counts(tmp_path: Path) -> None:
    bundle = bundle_with_findings(tmp_path / "shop" / "mine")
    (tmp_path / "pyproject.toml").write_text(SETTINGS.format("'hook-missing', 'session'"))
    (tmp_path / "shop" / "pyproject.toml").write_text(SETTINGS.format("'session'"))
    (bundle / "pyproject.toml").write_text("[tool.ruff]\n[project]\nname = 'x'\n")
    assert [finding.rule for finding in lint(bundle).findings] == ["hook-missing"]


def test_a_project_ignores_what_is_about_bundles(tmp_path: Path) -> None:
    """`bundle`: a broken ZIP; `several`: two parts of one API."""
    parts = [write_bundle(tmp_path / "all" / "api" / name, {"m.py": ""}, auth_check={"name": "check"}) for name in "ab"]
    (tmp_path / "all" / "broken.zip").write_bytes(b"no ZIP")
    found = {finding.rule for report in lint_all(tmp_path / "all") for finding in report.findings}
    assert found == {"bundle", "several", "hook-missing"}
    (tmp_path / "all" / "pyproject.toml").write_text(SETTINGS.format("'bundle', 'hook-missing'"))
    (parts[1] / "pyproject.toml").write_text(SETTINGS.format("'several', 'hook-missing'"))
    assert [finding for report in lint_all(tmp_path / "all") for finding in report.findings] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SETTINGS.format("'hook-mising'"), "there is no rule hook-mising; did you mean hook-missing?"),
        ("[tool.tykpy.lint]\nignored = []\n", "has only `ignore`, not 'ignored'"),
        ("[tool.tykpy.lint]\nignore = 'session'\n", 'is a list of rules, such as ["hook-missing"]'),
        (SETTINGS.format("1"), "is a list of rules"),
        ("[tool.tykpy.lint\n", "line 1"),
        ("x = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_wrong_settings_of_a_project_end_lint(tmp_path: Path, text: str, message: str) -> None:
    bundle = bundle_with_findings(tmp_path / "mine")
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    for target in (bundle, tmp_path):
        with pytest.raises(CommandError) as raised:
            lint_all(target)
        assert str(raised.value).startswith(f"{path}: ")
        assert message in str(raised.value)


def test_columns_count_characters(tmp_path: Path) -> None:
    (finding,) = lint_text(tmp_path, in_hook("@Pre", REQUEST, "x = 'äöü'; session.rate = 1.0"))
    assert (finding.line, finding.column) == (4, 16)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("def hook(:\n", "syntax"),
        ("x = '\0'\n", "syntax"),
        ("@Pre\ndef hook(request, session, spec):\n    return " + "+".join(["x"] * 900) + "\n", "nesting"),
        ("@Pre\ndef hook(request, session, spec):\n    return " + "-" * 200_000 + "1\n", "syntax"),
        ("@Pre\ndef hook(request, session, spec):\n    return " + "lambda:" * 5_000 + "1\n", "syntax"),
    ],
)
def test_hooks_that_cannot_run_are_found(tmp_path: Path, text: str, rule: str) -> None:
    assert rules(tmp_path, text) == [rule]


REQUEST_SHAPES = (
    "(request, session, spec), (request, session, metadata, spec), (request, response, session, metadata, spec)"
)
REFUSED = [
    ("@Pre\ndef hook(request): pass\n", f"takes 1 argument; allowed are {REQUEST_SHAPES}"),
    ("@Hook\ndef hook(): pass\n", f"takes 0 arguments; allowed are {REQUEST_SHAPES} or (event, spec)"),
    ("@Event\ndef hook(request, session, spec): pass\n", "takes 3 arguments; allowed are (event, spec)"),
    (f"@Post\ndef hook({RESPONSE}, more): pass\n", f"takes 6 arguments; allowed are {REQUEST_SHAPES}"),
    ("@Post\ndef hook(a, /, b=1): pass\n", f"takes 2 arguments; allowed are {REQUEST_SHAPES}"),
    ("@Pre\nasync def hook(*args): pass\n", "takes *args, which does not say what it wants: name its arguments"),
    ("@Pre\ndef hook(a, *args): pass\n", f"takes 1 argument; allowed are {REQUEST_SHAPES}"),
    ("@Pre\ndef hook(a, b, c, *, d): pass\n", "has arguments that must be given by name (d)"),
    ("class A:\n    @Pre\n    def hook(self, a): pass\nhook = A().hook\n", "takes 1 argument"),
    ("class A:\n    @Pre\n    @staticmethod\n    def hook(a, b): pass\nhook = A.hook\n", "takes 2 arguments"),
    ("def make():\n    @Pre\n    def hook(a): pass\n    return hook\nhook = make()\n", "takes 1 argument"),
]
USELESS = [
    ("@Response\ndef hook(a, b, c):\n    return a, b\n", f"gets no response; write ({RESPONSE})"),
    (
        f"@Pre\ndef hook({RESPONSE}):\n    return response\n",
        "gets an empty response, and nothing that it returns counts",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED + USELESS)
def test_wrong_arguments_are_found(tmp_path: Path, text: str, message: str) -> None:
    (finding,) = [found for found in lint_text(tmp_path, text) if found.rule == "hook-arguments"]
    assert message in finding.message


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_workers_refuse_the_same_with_the_same_words(tmp_path: Path, text: str, message: str) -> None:
    (finding,) = [found for found in lint_text(tmp_path, text) if found.rule == "hook-arguments"]
    bundle = load_text(tmp_path)
    assert message in bundle.faulty["hook"].error.message
    assert bundle.faulty["hook"].error.message == f"hook {finding.message}"


@pytest.mark.parametrize(
    "text",
    [
        "@Pre\ndef hook(a, b, c, d=1, e=2, f=3):\n    return a, b\n",
        "@Pre\ndef hook(a, b, c, *more, d=1):\n    return a, b\n",
        "class A:\n    if 1:\n        @Pre\n        def hook(self, a, b, c, d): return a, b, c\nhook = A().hook\n",
        "class A:\n    @Event\n    def hook(self, event, spec): pass\nhook = A().hook\n",
        "@Hook\ndef hook(event, spec): pass\n",
    ],
)
def test_arguments_that_fit_are_left_alone(tmp_path: Path, text: str) -> None:
    assert rules(tmp_path, text) == []
    bundle = load_text(tmp_path)
    assert list(bundle.hooks) == ["hook"]


STATE = [
    ("seen = []\ndef f(x):\n    seen.append(x)\n", "seen"),
    ("seen = {}\ndef f(x):\n    seen[x] = 1\n", "seen"),
    ("table = {'a': {}}\ndef f(x):\n    table['a'][x] = 1\n", "table"),
    ("count = 0\ndef f():\n    global count\n    count += 1\n", "count"),
    ("class P:\n    def keep(self, x):\n        self.x = x\np = P()\n", "P.x"),
    ("class P:\n    def keep(self, x):\n        self.x.append(x)\np: object = P()\n", "P.x"),
    ("class P:\n    def keep(self, x):\n        self.n += 1\nall = {'p': P()}\n", "P.n"),
    ("class P:\n    x = []\n    def keep(self, x):\n        self.x.append(x)\n", "P.x"),
    ("class P:\n    n = 0\n    @classmethod\n    def keep(cls):\n        cls.n += 1\n", "P.n"),
    ("class P:\n    n = 0\ndef f():\n    P.n += 1\n", "P.n"),
    ("class P: pass\np = P()\ndef f(x):\n    p.x = x\n", "p.x"),
    ("def f():\n    f.calls += 1\n", "f.calls"),
    ("import settings\ndef f(x):\n    settings.X = x\n", "settings.X"),
    ("import os\ndef f(x):\n    os.environ['X'] = x\n", "os.environ"),
    ("class P: pass\ndef f(x):\n    setattr(P, 'x', x)\n", "P"),
    ("import functools\n@functools.lru_cache\ndef f(x): return x\n", "cache of f"),
    ("from functools import lru_cache as cache\n@cache(maxsize=9)\ndef f(x): return x\n", "cache of f"),
    ("def f(x, seen=[]):\n    seen.append(x)\n", "seen"),
    ("def f(*, seen={}):\n    seen['a'] = 1\n", "seen"),
    ("def make():\n    n = 0\n    def f():\n        nonlocal n\n        n += 1\n    return f\nf = make()\n", "n"),
    ("def make():\n    n = []\n    def f():\n        n.append(1)\n    return f\nf = make()\n", "n"),
    ("import itertools\nids = itertools.count()\ndef f():\n    return next(ids)\n", "ids"),
]


@pytest.mark.parametrize(("text", "name"), STATE)
def test_state_that_outlives_a_call_is_found(tmp_path: Path, text: str, name: str) -> None:
    (finding,) = lint_text(tmp_path, text)
    assert finding.rule == "shared-state"
    assert f"has a {name} of its own" in finding.message


NO_STATE = [
    "from tyk.decorators import on_start\n@on_start\ndef f():\n    global pool\n    pool = object()\n",
    "from tyk import decorators\nstate = {}\n@decorators.on_stop\nasync def f():\n    state.clear()\n",
    "from tyk import cache\n@cache(ttl=60)\ndef f(x): return x\n",
    "import tyk as t\n@t.cache\ndef f(x): return x\n",
    "table = {'a': 1}\ndef f(x):\n    return table.get(x)\n",
    "class P:\n    def __init__(self):\n        self.x = []\np = P()\n",
    "class P:\n    def keep(self, x):\n        self.x = x\ndef f():\n    P().keep(1)\n",
    "class P:\n    x = []\n    def keep(self, x):\n        self.x = [x]\n",
    "def f(x):\n    seen = []\n    def inner():\n        seen.append(x)\n    inner()\n    return seen\n",
    "def f(seen=None):\n    seen = seen or []\n    seen.append(1)\n",
    "import os\ndef f(x):\n    os.remove(x)\n",
    "values = []\nvalues.append(1)\n",
    "seen = {}\ndef f(seen):\n    seen['a'] = 1\n",
    "def f(rows):\n    for row in rows:\n        row.seen = True\n",
    "def f(it):\n    return next(it)\n",
]


@pytest.mark.parametrize("text", NO_STATE)
def test_state_of_one_call_is_left_alone(tmp_path: Path, text: str) -> None:
    assert rules(tmp_path, text) == []


def test_the_advice_is_the_store_or_its_cache(tmp_path: Path) -> None:
    (kept,) = lint_text(tmp_path, "seen = []\ndef f(x):\n    seen.append(x)\n")
    assert kept.message.endswith("keep it in tyk.store")
    (cached,) = lint_text(tmp_path, "import functools\n@functools.cache\ndef f(x): return x\n")
    assert cached.message.endswith("use tyk.cache(ttl=..., shared=True)")


def test_classes_of_another_file_count_as_well(tmp_path: Path) -> None:
    files = {
        "middleware.py": "from lib.pairs import Pairs\npairs = Pairs()\n",
        "lib/pairs.py": "class Pairs:\n    def begin(self, x):\n        self.x = x\n",
    }
    (finding,) = lint(write_bundle(tmp_path / "mine", files)).findings
    assert (Path(finding.file).name, finding.rule) == ("pairs.py", "shared-state")


RETURNS = [
    ("@Pre", REQUEST, "pass", "missing-return", "returns nothing"),
    ("@Pre", REQUEST, "return", "missing-return", "returns nothing here"),
    ("@Pre", REQUEST, "return None", "return-value", "returns nothing here"),
    ("@Pre", REQUEST, "if spec: return request, session", "missing-return", "on some paths only"),
    ("@Post", FULL, "for x in spec: return request, session, metadata", "missing-return", "on some paths only"),
    ("@Pre", REQUEST, "return request", "return-value", "returns request alone"),
    ("@Pre", REQUEST, "return session, request", "return-value", "not their order"),
    ("@Post", FULL, "return request, metadata, session", "return-value", "not their order"),
    ("@Post", FULL, "return request, session", "return-value", "returns 2 values"),
    ("@Pre", REQUEST, "return request, session, spec", "return-value", "returns 3 values"),
    ("@Response", RESPONSE, "return request, session", "return-value", "write return response"),
    ("@Hook", RESPONSE, "return request, response, session, metadata, spec", "return-value", "write return response"),
    ("@Response", RESPONSE, "return response.status_code", "return-value", "write return response"),
    ("@Response", RESPONSE, "return 200", "return-value", "write return response"),
]


@pytest.mark.parametrize(("decorator", "arguments", "line", "rule", "said"), RETURNS, ids=[row[2] for row in RETURNS])
def test_wrong_return_values_are_found(
    tmp_path: Path, decorator: str, arguments: str, line: str, rule: str, said: str
) -> None:
    (finding,) = lint_text(tmp_path, f"{decorator}\ndef hook({arguments}):\n    {line}\n")
    assert finding.rule == rule
    assert said in finding.message


RETURNS_WELL = [
    "if spec:\n        return request, session\n    else:\n        return request, None",
    "raise LookupError",
    "while True:\n        return request, session",
    "with open(spec) as file:\n        return request, session",
    "try:\n        return request, session\n    except OSError:\n        raise",
    "try:\n        change(request)\n    finally:\n        return request, session",
    "match spec:\n        case 1: return request, session\n        case _: raise ValueError",
    "def inner():\n        return\n    return request, session",
    "return change(request)",
    "return changed, session",
    "return *change(request),",
]


@pytest.mark.parametrize("body", RETURNS_WELL)
def test_correct_return_values_are_left_alone(tmp_path: Path, body: str) -> None:
    assert rules(tmp_path, f"@Pre\ndef hook(request, session, spec):\n    {body}\n") == []


BLOCKING = [
    ("import time", "time.sleep(1)", "asyncio.sleep"),
    ("import time as t", "t.sleep(1)", "asyncio.sleep"),
    ("from time import sleep as nap", "nap(1)", "asyncio.sleep"),
    ("import requests", "requests.get('http://x')", "httpx.AsyncClient"),
    ("import requests\nclient = requests.Session()", "client.get('http://x')", "httpx.AsyncClient"),
    ("import urllib.request", "urllib.request.urlopen('http://x')", "asynchronous client"),
    ("from urllib import request", "request.urlopen('http://x')", "asynchronous client"),
    ("import subprocess", "subprocess.run(['ls'])", "create_subprocess_exec"),
    ("import redis\nstore = redis.Redis()", "store.get('x')", "redis.asyncio"),
    ("import socket", "socket.create_connection(('x', 1))", "open_connection"),
    ("import http.client", "http.client.HTTPSConnection('x').request('GET', '/')", "asynchronous client"),
    ("from tyk import store", "store.get('x')", "await store.aget(...)"),
    ("import tyk", "tyk.store.set_if_absent('x', 1)", "await store.aset_if_absent(...)"),
    ("from tyk.storage import store as s", "s.incr('x')", "await store.aincr(...)"),
    ("from gateway import TykGateway as tyk", "tyk.get_data('x')", "await tyk.store.aget(...)"),
    ("from tyk.gateway import TykGateway", "TykGateway.store_data('x', 1)", "await tyk.store.aset(...)"),
    ("from tyk import cache\n@cache(ttl=1, shared=True)\ndef tier(x): return x", "tier(1)", "async def tier"),
    ("import redis\ndb: redis.Redis = redis.Redis.from_url('x')", "db.get('x')", "redis.asyncio"),
    ("import sqlite3", "sqlite3.connect('x')", "aiosqlite"),
    ("import urllib3\npool = urllib3.PoolManager()", "pool.request('GET', 'x')", "asynchronous client"),
    ("import time\ndef wait():\n    time.sleep(1)", "wait()", "time.sleep in line 4 blocks"),
    ("import time\ndef a():\n    b()\ndef b():\n    time.sleep(1); a()", "a()", "time.sleep in line 6 blocks"),
]


@pytest.mark.parametrize(("imports", "line", "instead"), BLOCKING, ids=[row[1] for row in BLOCKING])
def test_blocking_calls_in_async_hooks_are_found(tmp_path: Path, imports: str, line: str, instead: str) -> None:
    text = f"{imports}\n@Pre\nasync def hook(request, session, spec):\n    {line}\n    return request, session\n"
    (finding,) = lint_text(tmp_path, text)
    assert finding.rule == "blocking-call"
    assert instead in finding.message


NOT_BLOCKING = [
    ("import asyncio", "await asyncio.sleep(1)"),
    ("import time, asyncio", "await asyncio.to_thread(time.sleep, 1)"),
    ("import time, asyncio", "await asyncio.to_thread(lambda: time.sleep(1))"),
    ("import redis.asyncio\nstore = redis.asyncio.Redis()", "await store.get('x')"),
    ("import httpx\nclient = httpx.AsyncClient()", "await client.get('http://x')"),
    ("", "time.sleep(1)"),
    ("from tyk import store", "await store.aget('x')"),
    ("import asyncio\nfrom tyk import store", "await asyncio.to_thread(store.get, 'x')"),
    ("from gateway import TykGateway as tyk", "tyk.log('x')"),
    ("from tyk import cache\n@cache(ttl=1)\ndef tier(x): return x", "tier(1)"),
    ("from tyk import cache\n@cache(ttl=1, shared=True)\nasync def tier(x): return x", "await tier(1)"),
    ("import asyncio, time\ndef wait():\n    time.sleep(1)", "await asyncio.to_thread(wait)"),
    ("import time\ndef waits():\n    time.sleep(1)\n    yield", "waits()"),
]


@pytest.mark.parametrize(("imports", "line"), NOT_BLOCKING, ids=[row[1] for row in NOT_BLOCKING])
def test_calls_that_do_not_block_are_left_alone(tmp_path: Path, imports: str, line: str) -> None:
    text = f"{imports}\n@Pre\nasync def hook(request, session, spec):\n    {line}\n    return request, session\n"
    assert rules(tmp_path, text) == []


def test_a_plain_function_may_block(tmp_path: Path) -> None:
    assert rules(tmp_path, "import time\n" + in_hook("@Pre", REQUEST, "time.sleep(1)")) == []


COMPILED = {
    "_a.cpython-37m-x86_64-linux-gnu.so": "CPython 3.7 (cpython-37)",
    "_b.cpython-310-x86_64-linux-gnu.so": "CPython 3.10 (cpython-310)",
    "_c.cpython-313t-x86_64-linux-gnu.so": "another build of CPython 3.13",
    "_d.cpython-312-darwin.so": "another system (darwin)",
    "_e.pypy39-pp73-x86_64-linux-gnu.so": "another interpreter",
    "_f.cp311-win_amd64.pyd": "for Windows",
    "_g.dylib": "for macOS",
    "_h.pyc": "without its source",
}
LOADABLE = ["_i.cpython-311-x86_64-linux-gnu.so", "_j.abi3.so", "_k.so", "_l.cpython-313-aarch64-linux-musl.so"]


def test_unloadable_compiled_files_are_found(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "mine", {"middleware.py": "", "lib/_m.py": ""})
    (bundle / "lib" / "_m.pyc").write_bytes(b"")
    for name in [*COMPILED, *LOADABLE]:
        (bundle / "lib" / name).write_bytes(b"")
    report = lint(bundle)
    assert {Path(one.file).name: one.rule for one in report.findings} == dict.fromkeys(COMPILED, "cannot-load")
    for finding in report.findings:
        assert COMPILED[Path(finding.file).name] in finding.message
    assert f"{len(COMPILED) + len(LOADABLE) + 1} compiled files" in report.unchecked


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bundles").rglob("*.py")), ids=lambda path: path.name)
def test_our_own_bundles_have_no_false_findings(path: Path) -> None:
    found = lint(path).findings
    assert [str(one) for one in found if one.rule in ("return-value", "missing-return", "blocking-call")] == []


def test_compiler_warnings_are_ignored(tmp_path: Path) -> None:
    assert rules(tmp_path, "pattern = '\\d'\n") == []


def test_defaults_may_fill_up_a_shape(tmp_path: Path) -> None:
    assert rules(tmp_path, "@Pre\ndef hook(request, session, spec, a=1, b=2, c=3): pass\n") == []


def test_manifest_determines_hook_types(tmp_path: Path) -> None:
    text = (
        "@Hook\ndef one(request, session, spec):\n    session.rate = 1.0\n    return request, session\n\n"
        "def two(request, session, spec):\n    return request, session\n"
    )
    hooks = {"pre": [{"name": "one"}, {"name": "two"}], "post": [{"name": "gone"}]}
    bundle = write_bundle(tmp_path / "mine", {"middleware.py": text}, **hooks)
    assert [str(finding).partition(": ")[0] + " " + finding.rule for finding in lint(bundle).findings] == [
        f"{bundle}/manifest.json hook-missing",
        f"{bundle}/middleware.py:4:5 session",
        f"{bundle}/middleware.py:7:1 hook-undecorated",
    ]


def test_a_file_that_the_manifest_lists_has_to_be_there(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "mine", {"middleware.py": "", "gone.py": ""}, pre=[{"name": "one"}])
    (bundle / "gone.py").unlink()
    (finding,) = lint(bundle).findings
    assert (finding.rule, finding.message) == ("file-missing", "gone.py is in file_list, and is not there")


UNLISTED = """
@Pre
def listed(request, session, spec):
    return request, session

@Pre
def left_out(request, session, spec):
    return request, session

@Hook
def of_any_type(request, session, spec):
    return request, session

@Event
def handler(event, spec):
    print(event)

@Post
def allowed(request, session, spec):  # tykpy: ignore[hook-unlisted]
    return request, session
"""


@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        ({"pre": [{"name": "listed"}]}, ["left_out", "of_any_type"]),
        ({"pre": [{"name": "*"}]}, ["of_any_type"]),
        ({"pre": [{"name": "listed"}], "post": [{"name": "left_out"}, {"name": "of_any_type"}]}, []),
    ],
)
def test_hooks_that_the_manifest_leaves_out_are_found(
    tmp_path: Path, hooks: dict[str, Any], expected: list[str]
) -> None:
    found = lint(write_bundle(tmp_path / "mine", {"middleware.py": UNLISTED}, **hooks)).findings
    assert [(one.rule, one.message.partition(" ")[0]) for one in found] == [
        ("hook-unlisted", name) for name in expected
    ]


def test_without_listed_hooks_an_api_definition_may_list_them(tmp_path: Path) -> None:
    text = UNLISTED.replace("  # tykpy: ignore[hook-unlisted]", "")
    assert lint(write_bundle(tmp_path / "mine", {"middleware.py": text})).findings == []


def test_zip_is_linted(tmp_path: Path) -> None:
    bundle = write_zip(tmp_path / "a.zip", {"lib/x.py": in_hook("@Pre", REQUEST, 'request.object.url = ""')})
    assert [(finding.file, finding.rule) for finding in lint(bundle).findings] == [(f"{bundle}/lib/x.py", "url-empty")]


def test_code_is_not_executed(tmp_path: Path) -> None:
    assert rules(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()\n") == []
    assert not (tmp_path / "ran").exists()


def test_our_own_example_is_clean() -> None:
    assert lint(EXAMPLE).findings == []


def test_path_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such file or folder"):
        lint(tmp_path / "none")
    with pytest.raises(CommandError, match=r"there is no manifest\.json"):
        lint(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(CommandError, match="not a ZIP"):
        lint(tmp_path / "x.zip")


def test_every_bundle_of_a_folder_is_linted(tmp_path: Path) -> None:
    """As in a gateway's folder: folders named by MD5s, several bundles below one, and other files."""
    wrong = in_hook("@Pre", REQUEST, 'request.object.body = "x"')
    write_bundle(tmp_path / ("0" * 32), {"middleware.py": wrong})
    for part in ("first", "second"):
        write_bundle(tmp_path / ("1" * 32) / part, {"middleware.py": wrong})
    write_zip(tmp_path / "packed.zip", {"middleware.py": wrong})
    (tmp_path / "single.py").write_text("from tyk.decorators import *\n" + wrong)
    (tmp_path / "conftest.py").write_text("import pytest\n")
    (tmp_path / "README.txt").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    (tmp_path / "broken.py").write_text("def (")
    found = [finding for report in lint_all(tmp_path) for finding in report.findings]
    bodies = {str(Path(finding.file).relative_to(tmp_path)) for finding in found if finding.rule == "request-body"}
    assert bodies == {
        f"{'0' * 32}/middleware.py",
        f"{'1' * 32}/first/middleware.py",
        f"{'1' * 32}/second/middleware.py",
        "packed.zip/middleware.py",
        "single.py",
    }
    (bad,) = [finding for finding in found if finding.rule == "bundle"]
    assert "manifest.json" in bad.message
    assert any(finding.file.endswith("broken.py") for finding in found)


@pytest.mark.parametrize(
    ("hooks", "problem"),
    [
        ({"pre": [{"name": "hook"}]}, "first has a hook hook too: the gateway asks by name"),
        ({"auth_check": {"name": "hook"}}, "auth_check hook, but first has hook: the gateway does not load an API"),
        ({"pre": [{"name": "*"}]}, "first lists * for Pre as well"),
        ({"driver": "python"}, "driver python, but first has grpc"),
    ],
)
def test_conflicts_of_several_bundles_are_found(tmp_path: Path, hooks: dict[str, Any], problem: str) -> None:
    shared = tmp_path / md5("first.zip,second.zip")
    code = {"middleware.py": in_hook("@Hook", REQUEST)}
    write_bundle(shared / "first", code, **{**hooks, "driver": "grpc"})
    write_bundle(shared / "second", code, **hooks)
    (finding,) = [finding for report in lint_all(tmp_path) for finding in report.findings if finding.rule == "several"]
    assert finding.message.startswith(problem)
    assert finding.file == f"{shared}/second/manifest.json"


def test_several_bundles_with_hooks_of_their_own_are_fine(tmp_path: Path) -> None:
    for name in ("first", "second"):
        code = in_hook("@Hook", REQUEST).replace("def hook", f"def {name}")
        write_bundle(tmp_path / md5("first.zip,second.zip") / name, {"middleware.py": code}, pre=[{"name": name}])
    assert [finding for report in lint_all(tmp_path) for finding in report.findings] == []


def test_a_folder_without_bundles_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(CommandError, match=r"no manifest\.json in it, and no bundle"):
        lint_all(tmp_path)


PERCENT = "100%: a, b\n\x1b[31m"
SHOWN = [
    Finding("a b/ü.py", 3, 5, "session", PERCENT),
    Finding("mine/manifest.json", 0, 0, "hook-missing", "gone"),
]


def test_console_output_is_harmless() -> None:
    (first, second) = as_console(SHOWN)
    assert first.startswith("a b/ü.py:3:5: session: 100%: a, b\n")
    assert "\x1b" not in first
    assert second == "mine/manifest.json: hook-missing: gone"


def test_github_annotations_are_escaped() -> None:
    assert list(as_github(SHOWN)) == [
        "::warning file=a b/ü.py,line=3,col=5,title=session::100%25: a, b%0A\x1b[31m",
        "::error file=mine/manifest.json,title=hook-missing::gone",
    ]
    (line,) = as_github([Finding("a,b:c.py", 1, 1, "syntax", "x")])
    assert "file=a%2Cb%3Ac.py," in line


def test_sarif_has_what_its_schema_requires() -> None:
    """The objects that tykpy writes, as in the schema of SARIF 2.1.0: required and allowed members, and their types."""
    (text,) = as_sarif([*SHOWN, Finding("/abs/x.py", 1, 1, "syntax", "x")])
    log = json.loads(text)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[one["ruleIndex"]]["id"] for one in run["results"]] == [one["ruleId"] for one in run["results"]]
    places = [one["locations"][0]["physicalLocation"] for one in run["results"]]
    assert places[0]["artifactLocation"]["uri"] == "a%20b/%C3%BC.py"
    assert places[0]["region"] == {"startLine": 3, "startColumn": 5}
    assert "region" not in places[1]
    assert places[2]["artifactLocation"]["uri"] == "file:///abs/x.py"


def test_sarif_explains_each_rule_by_its_page() -> None:
    (text,) = as_sarif([])
    (run,) = json.loads(text)["runs"]
    helps = {rule["id"]: rule["help"] for rule in run["tool"]["driver"]["rules"]}
    assert list(helps) == list(RULES)
    session = (ROOT / "docs" / "lint" / "session.md").read_text().removeprefix("# `session`\n\n")
    assert helps["session"]["markdown"].startswith(session)
    assert helps["session"]["text"].startswith("The gateway stores the session")
    assert "ignore[session]" in helps["session"]["text"]
    assert "`ignore` in pyproject.toml" in helps["session"]["text"]
    assert ".md" not in text, "a link leads nowhere outside the documentation"


def strict(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


MESSAGE = strict("text", text={"type": "string"})
HELP = strict("text", text={"type": "string"}, markdown={"type": "string"})
LEVEL = {"enum": ["none", "note", "warning", "error"]}
COUNT = {"type": "integer", "minimum": 1}
SARIF = strict(
    "version runs",
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": strict(
            "tool",
            tool=strict(
                "driver",
                driver=strict(
                    "name",
                    name={"type": "string"},
                    version={"type": "string"},
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": strict(
                            "id",
                            id={"type": "string"},
                            shortDescription=MESSAGE,
                            fullDescription=MESSAGE,
                            help=HELP,
                            defaultConfiguration=strict("", level=LEVEL),
                        ),
                    },
                ),
            ),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            results={
                "type": "array",
                "items": strict(
                    "message",
                    ruleId={"type": "string"},
                    ruleIndex={"type": "integer", "minimum": -1},
                    level=LEVEL,
                    message=MESSAGE,
                    locations={
                        "type": "array",
                        "items": strict(
                            "",
                            physicalLocation=strict(
                                "",
                                artifactLocation=strict("", uri={"type": "string", "format": "uri-reference"}),
                                region=strict("", startLine=COUNT, startColumn=COUNT),
                            ),
                        ),
                    },
                ),
            },
        ),
    },
)


@pytest.mark.parametrize(
    ("output_format", "start"), [("console", "{}:"), ("github", "::warning file={},"), ("sarif", "{{")]
)
def test_command_prints_the_chosen_format(tmp_path: Path, output_format: str, start: str) -> None:
    path = tmp_path / "hooks.py"
    path.write_text("from tyk.decorators import *\n" + in_hook("@Pre", REQUEST, 'request.object.body = "x"'))
    done = CliRunner().invoke(tykpy, ["lint", str(path), "--format", output_format])
    assert done.exit_code == 1
    assert done.stdout.startswith(start.format(path))
    assert "1 found in 1 Python file" in done.stderr


def test_findings_name_rules_of_the_catalogue() -> None:
    place = {"at": 2, "Finding": 3}
    named = {
        argument.value
        for path in (ROOT / "commands").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in place
        for argument in call.args[place[call.func.id] : place[call.func.id] + 1]
        if isinstance(argument, ast.Constant)
    }
    assert {"hook-missing", "lock", "chain"} <= named <= set(RULES)
