"""Manifests: everything that the gateway accepts, and errors that name the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from tykpy.bundles.errors import ManifestError
from tykpy.bundles.files.manifest import MAX_MANIFEST_SIZE, ListedHook, parse_manifest, read_manifest


def parse(middleware: dict[str, Any] | None = None, **fields: Any) -> Any:
    return parse_manifest(json.dumps({"custom_middleware": middleware or {}, **fields}).encode())


def test_hooks_are_listed_in_the_order_the_gateway_runs_them() -> None:
    found = parse(
        {
            "response": [{"name": "R"}],
            "post": [{"name": "P", "disabled": True}],
            "pre": [{"name": "A", "raw_body_only": True}, {"name": "B", "timeout": 2}],
            "auth_check": {"name": "Auth"},
        }
    )
    assert [(hook.hook_type, hook.name) for hook in found.hooks] == [
        ("Pre", "A"), ("Pre", "B"), ("CustomKeyCheck", "Auth"), ("Post", "P"), ("Response", "R"),
    ]  # fmt: skip
    assert found.hooks[0].raw_body_only
    assert found.hooks[1].timeout == 2.0
    assert found.hooks[3].disabled


def test_nulls_written_by_gateways_are_empty() -> None:
    assert parse({"auth_check": {"name": ""}, "pre": None, "post": []}).hooks == ()


def test_a_whole_chain_lists_its_hooks() -> None:
    chain = [{"name": "A"}, {"name": "B", "disabled": True}]
    found = parse({"pre": [{"name": "*", "chain": chain}], "post": [{"name": "*", "disabled": True, "chain": chain}]})
    assert [(hook.hook_type, hook.name, hook.disabled) for hook in found.hooks] == [
        ("Pre", "A", False), ("Pre", "B", True), ("Post", "A", True), ("Post", "B", True),
    ]  # fmt: skip
    assert all(hook.in_chain for hook in found.hooks)
    assert found.chained == {"Pre"}


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_manifest(b'\xef\xbb\xbf{"file_list": ["a.py"]}').file_list == ("a.py",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"file_list": [\n  "a.py",,]}', "line 2, column 10"),
        (b"[]", "the manifest: Expected `object`, got `array`"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"file_list": "a.py"}', "file_list: Expected `array`, got `str`"),
        (b'{"file_list": [5]}', r"file_list\[0\]: Expected `str`, got `int`"),
        (b'{"file_list": ["../a.py"]}', "is not a file inside the bundle"),
        (b'{"file_list": ["/etc/passwd"]}', "is not a file inside the bundle"),
        (b'{"custom_middleware": {"driver": "otto"}}', 'custom_middleware.driver: "otto" is not Python'),
        (b'{"custom_middleware": {"pre": [{}]}}', r"custom_middleware.pre\[0\].name: .* is missing"),
        (b'{"custom_middleware": {"pre": ["A"]}}', r"custom_middleware.pre\[0\]: Expected `object`, got `str`"),
        (b'{"custom_middleware": {"pre": [{"name": "A", "disabled": 1}]}}', r"pre\[0\].disabled: Expected `bool`"),
        (
            b'{"custom_middleware": {"pre": [{"name": "A", "chain": [{"name": "B"}]}]}}',
            r"pre\[0\].chain: only an entry",
        ),
        (b'{"custom_middleware": {"pre": [{"name": "*", "chain": [{}]}]}}', r"pre\[0\].chain\[0\].name: .* is missing"),
        (
            b'{"custom_middleware": {"pre": [{"name": "*", "chain": [{"name": "*"}]}]}}',
            r"chain\[0\].name: a chain lists",
        ),
        (b'{"custom_middleware": {"pre": [{"name": "A", "timeout": 0}]}}', r"pre\[0\].timeout: Expected `float` > 0"),
    ],
)
def test_errors_name_the_field(content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(content)


def test_the_line_of_a_json_error_is_an_attribute() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(b"{\n\n]", "bundles/foo/manifest.json")
    assert (caught.value.file, caught.value.line) == ("bundles/foo/manifest.json", 3)


def test_too_large_manifest_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b" " * (MAX_MANIFEST_SIZE + 1))
    with pytest.raises(ManifestError, match="too many"):
        read_manifest(path)


def test_unknown_fields_are_ignored() -> None:
    found = parse({"pre": [{"name": "A", "require_session": True}], "id_extractor": {}}, signature="c2ln", other=1)
    assert found.hooks == (ListedHook("A", "Pre"),)
    assert found.signature == "c2ln"
