"""`--chain`: which hooks become one entry, what the author is told, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import write_bundle
from tests.support.keys import private_pem
from tykpy.bundles.files.archive import unpack
from tykpy.commands.bundle.build import build
from tykpy.commands.bundle.convert import convert
from tykpy.commands.bundle.listing import list_bundle
from tykpy.commands.errors import CommandError

HOOK = "@Hook{options}\ndef {name}(request, session, spec):\n    return request, session\n"


def source(tmp_path: Path, *names: str, code: str = "", driver: str = "grpc", **middleware: Any) -> Path:
    text = "".join(HOOK.format(name=name, options="") for name in names)
    return write_bundle(tmp_path / "mine", {"middleware.py": text + code}, driver=driver, **middleware)


def named(*names: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"name": name, **fields} for name in names]


def built(folder: Path, tmp_path: Path) -> tuple[dict[str, Any], list[str]]:
    """Build with chains; return the manifest's hooks, and the remarks."""
    remarks = build(folder, tmp_path / "mine.zip", chain=True).remarks
    manifest = json.loads((unpack(tmp_path / "mine.zip", tmp_path / "unpacked") / "manifest.json").read_text())
    return manifest["custom_middleware"], list(remarks)


def test_hooks_of_a_type_become_one_entry_with_all_fields(tmp_path: Path) -> None:
    pre = [
        {"name": "b", "raw_body_only": True},
        {"name": "off", "disabled": True, "note": "kept"},
        {"name": "a", "require_session": True},
    ]
    folder = source(tmp_path, "a", "b", "off", pre=pre)
    middleware, remarks = built(folder, tmp_path)
    assert middleware["pre"] == [{"name": "*", "raw_body_only": True, "chain": pre}]
    assert remarks[:4] == [
        'pre: the gateway makes one call, "*", which runs b, off, a in this order',
        "pre: disabled (off): tykpy leaves them out, where the gateway did",
        "pre: raw_body_only (b): tykpy gives them no text of the body; the gateway sends each body once, for all hooks",
        "pre: require_session (a): the gateway ignores it for driver grpc, before and now",
    ]
    assert "the broker's --timeout is for a whole chain, no longer for each hook" in remarks
    assert [(name, more) for _, name, more in list_bundle(tmp_path / "mine.zip").hooks] == [
        ("b", "raw_body_only, in *"), ("off", "disabled, in *"), ("a", "in *"),
    ]  # fmt: skip


def test_authentication_and_single_hooks_stay(tmp_path: Path) -> None:
    extractor = {"extract_from": "header", "extract_with": "value"}
    middleware: dict[str, Any] = {
        "pre": named("a"),
        "auth_check": {"name": "auth"},
        "id_extractor": extractor,
        "post": [{"name": "b"}, {"name": "off", "disabled": True}],
        "response": named("*"),
    }
    after, remarks = built(source(tmp_path, "a", "b", "off", "auth", **middleware), tmp_path)
    assert after == {"driver": "grpc", **middleware}
    assert remarks == [
        "pre: has one hook, and stays as it is",
        "auth_check: does not chain, and stays as it is",
        "post: has one hook, and stays as it is",
        "response: has one hook, and stays as it is",
    ]


def test_idempotent_hook_is_reported(tmp_path: Path) -> None:
    code = HOOK.format(name="again", options="(idempotent=True)")
    _, remarks = built(source(tmp_path, "a", code=code, pre=named("a", "again")), tmp_path)
    assert "pre: idempotent (again): a chain is not run again when its worker dies" in remarks


REFUSED = {
    "driver": ({"driver": "python"}, "", 'manifest.json: the driver is "python"'),
    "star": ({"pre": named("a", "*")}, "", "manifest.json: pre: * runs the whole chain, and the hooks beside it"),
    "timeout": ({"pre": [{"name": "a"}, {"name": "b", "timeout": 2}]}, "", "manifest.json: pre: b has a timeout"),
    "decorator": ({"pre": named("a", "slow")}, "(timeout=2)", "middleware.py:9: slow has a timeout of its own"),
    "go": (
        {"response": [{"name": "a"}, {"name": "b", "path": "b.so"}]},
        "",
        "manifest.json: response: b is a Go plugin (b.so), which the gateway runs itself",
    ),
    "missing": ({"post": named("a", "none")}, "", "manifest.json: hook-missing: none (Post) is in the manifest"),
    "arguments": ({"pre": named("a", "few")}, "", "hook-arguments: few takes 1 argument; allowed are"),
    "plain": ({"pre": named("a", "plain")}, "", "hook-undecorated: plain is in the manifest, but has no decorator"),
}


@pytest.mark.parametrize(("middleware", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_hooks_with_different_results_are_refused(
    tmp_path: Path, middleware: dict[str, Any], options: str, reason: str
) -> None:
    """The message names file, hook and reason, and nothing is written."""
    code = HOOK.format(name="slow", options=options) + "@Hook\ndef few(request): pass\ndef plain(a, b, c): pass\n"
    folder = source(tmp_path, "a", "b", code=code, **{"pre": named("a", "b"), **middleware})
    with pytest.raises(CommandError) as caught:
        build(folder, tmp_path / "mine.zip", chain=True)
    assert reason in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "mine.zip").exists()


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    folder = source(tmp_path, "a", pre=[{"name": "a", "timeout": 1}, {"name": "b"}], post=named("*", "a"))
    with pytest.raises(CommandError) as caught:
        build(folder, tmp_path / "mine.zip", chain=True)
    assert len(str(caught.value).splitlines()) == 3


def test_convert_chains_hooks_of_embedded_python(tmp_path: Path) -> None:
    """A signature stays valid: no file changes."""
    folder = source(tmp_path, "a", "b", driver="python", pre=named("b", "a"))
    signed = build(folder, tmp_path / "old.zip", private_pem(tmp_path)).output
    before = json.loads((unpack(signed, tmp_path / "before") / "manifest.json").read_text())
    found = convert(signed, tmp_path / "new", chain=True).findings
    after = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert after["custom_middleware"] == {
        "driver": "grpc",
        "pre": [{"name": "*", "raw_body_only": True, "chain": named("b", "a")}],
    }
    assert after["signature"] == before["signature"]
    assert {finding.rule for finding in found} == {"chain"}
    assert "which runs b, a in this order" in found[0].message


def test_convert_reports_changes_without_output(tmp_path: Path) -> None:
    folder = source(tmp_path, "a", "b", driver="python", pre=named("a", "b"))
    assert {finding.rule for finding in convert(folder, chain=True).findings} == {"chain"}
    assert convert(folder).findings == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
