"""`tykpy lint`: every rule finds what it is for, at its place, and leaves alone what the gateway takes."""

from pathlib import Path
from textwrap import dedent

import pytest

from commands.errors import CommandError
from commands.lint import lint
from commands.lint.findings import Finding
from tests.support.bundles import write_bundle, write_zip

EXAMPLE = Path(__file__).parents[3] / "examples" / "bundles" / "example"


def lint_text(tmp_path: Path, text: str) -> list[Finding]:
    path = tmp_path / "hooks.py"
    path.write_text("from tyk.decorators import *\n" + dedent(text))
    return lint(path)


def kinds(tmp_path: Path, text: str) -> list[str]:
    return [finding.kind for finding in lint_text(tmp_path, text)]


def in_hook(decorator: str, arguments: str, *lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"{decorator}\ndef hook({arguments}):\n{body}    return {arguments}\n"


REQUEST = "request, session, spec"
FULL = "request, session, metadata, spec"
RESPONSE = "request, response, session, metadata, spec"

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


@pytest.mark.parametrize(("decorator", "arguments", "lines", "kind"), FOUND, ids=["; ".join(row[2]) for row in FOUND])
def test_what_the_gateway_ignores_is_found(
    tmp_path: Path, decorator: str, arguments: str, lines: list[str], kind: str
) -> None:
    assert kinds(tmp_path, in_hook(decorator, arguments, *lines)) == [kind]


TAKEN = [
    ("@Pre", REQUEST, ['request.object.raw_body = b"x"', 'request.object.body = "x"']),
    ("@Pre", REQUEST, ['request.add_header("a", "b")', 'request.object.url = "/x"', 'request.object.method = "GET"']),
    ("@Pre", REQUEST, ['request.object.return_overrides.headers["a"] = "b"']),
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
def test_what_the_gateway_takes_is_left_alone(tmp_path: Path, decorator: str, arguments: str, lines: list[str]) -> None:
    assert kinds(tmp_path, in_hook(decorator, arguments, *lines)) == []


def test_a_header_only_in_the_lists_is_found_where_the_map_changes(tmp_path: Path) -> None:
    lines = 'response.headers["A"] = "1"', 'response.multivalue_headers.append(Header(key="B", values=["1"]))'
    assert kinds(tmp_path, in_hook("@Response", RESPONSE, *lines)) == ["response-headers"]


def test_a_finding_has_its_place_and_what_to_write(tmp_path: Path) -> None:
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
    assert kinds(tmp_path, text) == ["request-headers", "session"]


def test_decorators_under_other_names(tmp_path: Path) -> None:
    text = """
        import tyk.decorators as deco
        from tyk.decorators import Pre as First

        @First
        def one(request, session, spec):
            session.rate = 1.0

        @deco.Post()
        async def two(request, session, spec):
            session.rate = 1.0
    """
    assert kinds(tmp_path, text) == ["session", "session"]


def test_a_line_may_be_allowed(tmp_path: Path) -> None:
    lines = (
        "session.rate = 1.0  # tykpy: ignore",
        "session.per = 1.0  # tykpy: ignore[session]",
        "session.alias = 'a'  # tykpy: ignore[request-body]",
    )
    assert [finding.line for finding in lint_text(tmp_path, in_hook("@Pre", REQUEST, *lines))] == [6]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("@Pre\ndef hook(request): pass\n", "hook-arguments"),
        ("@Event\ndef hook(request, session, spec): pass\n", "hook-arguments"),
        ("@Response\ndef hook(request, session, spec): pass\n", "hook-arguments"),
        ("def hook(:\n", "syntax"),
        ("x = '\0'\n", "syntax"),
        ("@Pre\ndef hook(request, session, spec):\n    return " + "+".join(["x"] * 900) + "\n", "nesting"),
    ],
)
def test_what_cannot_run_is_found(tmp_path: Path, text: str, kind: str) -> None:
    assert kinds(tmp_path, text) == [kind]


def test_a_warning_of_the_compiler_is_none_of_ours(tmp_path: Path) -> None:
    assert kinds(tmp_path, "pattern = '\\d'\n") == []


def test_defaults_may_fill_up_a_shape(tmp_path: Path) -> None:
    assert kinds(tmp_path, "@Pre\ndef hook(request, session, spec, a=1, b=2, c=3): pass\n") == []


def test_the_manifest_says_what_hooks_are(tmp_path: Path) -> None:
    text = "@Hook\ndef one(request, session, spec):\n    session.rate = 1.0\n\ndef two(request, session, spec): pass\n"
    hooks = {"pre": [{"name": "one"}, {"name": "two"}], "post": [{"name": "gone"}]}
    bundle = write_bundle(tmp_path / "mine", {"middleware.py": text}, **hooks)
    assert [str(finding).partition(": ")[0] + " " + finding.kind for finding in lint(bundle)] == [
        f"{bundle}/manifest.json hook-missing",
        f"{bundle}/middleware.py:4:5 session",
        f"{bundle}/middleware.py:6:1 hook-undecorated",
    ]


def test_a_zip_is_looked_into(tmp_path: Path) -> None:
    bundle = write_zip(tmp_path / "a.zip", {"lib/x.py": in_hook("@Pre", REQUEST, 'request.object.url = ""')})
    assert [(finding.file, finding.kind) for finding in lint(bundle)] == [(f"{bundle}/lib/x.py", "url-empty")]


def test_nothing_is_run(tmp_path: Path) -> None:
    assert kinds(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()\n") == []
    assert not (tmp_path / "ran").exists()


def test_our_own_example_is_clean() -> None:
    assert lint(EXAMPLE) == []


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such folder or ZIP"):
        lint(tmp_path / "none")
    with pytest.raises(CommandError, match=r"there is no manifest\.json"):
        lint(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(CommandError, match="not a ZIP"):
        lint(tmp_path / "x.zip")
