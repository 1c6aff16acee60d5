"""Names of bundles from API definitions and calls, and the texts made from them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.bundles import md5
from tykpy.broker.catalog import bundle_names
from tykpy.broker.catalog.bundle_names import MAX_ID, ApiDefinitions, ApiUse, BundleNames, explain, hashes_of, text_of
from tykpy.telemetry.names import annotated

HELLO = md5("hello.zip")


def define(folder: Path, file: str, /, **definition: object) -> None:
    (folder / file).write_text(json.dumps(definition))


def test_a_file_is_read_again_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    define(tmp_path, "a.json", api_id="a", name="A", custom_middleware_bundle="hello.zip")
    definitions = ApiDefinitions(tmp_path)
    assert definitions.read() == [ApiUse("a", "A", "hello.zip")]
    with monkeypatch.context() as patch:
        patch.setattr(bundle_names, "_read", lambda path: pytest.fail(f"reads {path} again"))
        assert definitions.read() == [ApiUse("a", "A", "hello.zip")]
    define(tmp_path, "a.json", api_id="a", name="A", custom_middleware_bundle="other.zip")
    assert definitions.read() == [ApiUse("a", "A", "other.zip")]
    (tmp_path / "a.json").unlink()
    assert definitions.read() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 5}', b"\xff", b'{"a":' * 100_000])
def test_invalid_definitions_are_logged_and_skipped(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wrong.json").write_bytes(content)
    define(tmp_path, "right.json", api_id="a", name="A", custom_middleware_bundle="hello.zip")
    definitions = ApiDefinitions(tmp_path)
    for _ in range(2):
        assert [use.api_id for use in definitions.read()] == ["a"]
    assert len(caplog.messages) == 1
    assert "wrong.json cannot be read: " in caplog.text


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_names, "MAX_BYTES", 20)
    define(tmp_path, "a.json", api_id="a", custom_middleware_bundle="hello.zip")
    assert ApiDefinitions(tmp_path).read() == []


@pytest.mark.parametrize("create", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["FIFO", "device"])
def test_what_is_no_file_is_logged_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, create: Callable[[Path], None]
) -> None:
    """The broker's event loop would wait for the other end of a FIFO."""
    create(tmp_path / "a.json")
    assert ApiDefinitions(tmp_path).read() == []
    assert "a.json cannot be read: not a regular file" in caplog.text


def test_a_missing_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    definitions = ApiDefinitions(tmp_path / "apps")
    assert definitions.read() == definitions.read() == []
    assert len(caplog.messages) == 1
    assert "No such file or directory" in caplog.text


def test_changes_are_reported_once(tmp_path: Path) -> None:
    told: list[Mapping[str, str]] = []
    names = BundleNames(tmp_path, tell=told.append)
    define(tmp_path, "a.json", api_id="a", name="A", custom_middleware_bundle="hello.zip")
    for _ in range(2):
        names.refresh()
    assert told == [{HELLO: "hello.zip; API A"}]


def test_calls_show_apis_without_definitions(tmp_path: Path) -> None:
    define(tmp_path, "a.json", api_id="a", name="A", custom_middleware_bundle="hello.zip")
    names = BundleNames(tmp_path)
    names.refresh()
    for api_id, digest in [("a", HELLO), ("a", md5("old.zip")), ("b", HELLO), ("", HELLO), ("x" * (MAX_ID + 1), HELLO)]:
        names.note(api_id, digest)
    assert names.describe([HELLO]) == {
        "bundle": "hello.zip",
        "apis": [{"id": "a", "name": "A"}, {"id": "b", "name": ""}],
    }
    assert names.describe([md5("old.zip")]) == {"bundle": "", "apis": []}


def test_apis_from_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_names, "MAX_SEEN", 3)
    names = BundleNames(None)
    for number in range(10):
        names.note(str(number), HELLO)
    assert 1 <= len(names.describe([HELLO])["apis"]) <= 3


def test_many_apis_are_counted() -> None:
    apis = [{"id": str(number), "name": f"N{number}"} for number in range(5)]
    assert text_of({"bundle": "hello.zip", "apis": apis}) == "hello.zip; APIs N0, N1, N2 and 2 more"


def test_messages_are_explained() -> None:
    bundle = {"name": HELLO, "bundle": "hello.zip", "apis": []}
    other = {"name": "by-name", "bundle": "", "apis": []}
    assert explain(f"bundle {HELLO}: broken", [bundle, other]) == f"bundle {HELLO} (hello.zip): broken"


def test_hashes_are_explained_once_and_not_in_paths() -> None:
    names = {HELLO: "hello.zip"}
    text = f"bundle {HELLO}: /bundles/{HELLO}/middleware.py; bundle {HELLO}/part, {HELLO}0"
    assert annotated(text, names) == text.replace(f"{HELLO}:", f"{HELLO} (hello.zip):", 1)


@pytest.mark.parametrize("name", ["hello", "hello.zip", "hello.py"])
def test_a_gateway_finds_each_by_hello_zip(name: str) -> None:
    assert HELLO in hashes_of(name)


def test_a_folder_named_by_its_hash_is_found() -> None:
    assert hashes_of(HELLO) == [HELLO]
