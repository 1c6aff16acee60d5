"""`tykpy new`: names, and documents that cannot be read; nothing is written then."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tykpy.cli import main as tykpy
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.lint import lint
from tykpy.commands.new.command import HOOKS
from tykpy.commands.new.create import create
from tykpy.commands.new.hooks import TEMPLATES
from tykpy.commands.new.openapi import Operation, read_document


def document(tmp_path: Path, text: str, name: str = "api.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name", ["", "9lives", "a/b", "../up", "a b", "-x", "x-", ".x", "é", "x" * 65, "a\n", "d" * 32]
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match="name"):
        create(tmp_path, name, ("pre",))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").write_text("mine")
    for name in ("mine", "other"):
        with pytest.raises(CommandError, match="is there already, and is left as it is"):
            create(tmp_path, name, ("pre",))
    assert list((tmp_path / "mine").iterdir()) == []
    assert (tmp_path / "other").read_text() == "mine"


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path, "mine", ("pre",))
    assert list(tmp_path.iterdir()) == []


def test_every_hook_of_the_option_has_a_template() -> None:
    assert tuple(TEMPLATES) == HOOKS


def test_each_hook_alone_is_clean(tmp_path: Path) -> None:
    """The imports are those of the chosen hooks, sorted, and the code has ruff's format."""
    pytest.importorskip("ruff")
    for hook in HOOKS:
        assert lint(create(tmp_path, f"only-{hook}", (hook,)).folder).findings == []
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "--hooks", "pre,authentication"], "there is no hook 'authentication'; choose from pre, auth,"),
        ([], "give the bundle a NAME, or --from-openapi FILE"),
        (["a b"], "tykpy: 'a b' cannot be a bundle's name"),
    ],
)
def test_wrong_arguments_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(tykpy, ["new", *arguments])
    assert list(tmp_path.iterdir()) == []
    assert done.exit_code != 0
    assert said in done.stderr


def test_json_and_yaml_are_read_alike(tmp_path: Path) -> None:
    api = {
        "openapi": "3.1.0",
        "info": {"title": "Ignored", "version": "1"},
        "paths": {
            "x-note": 1,
            "/pets/{id}": {"get": {"operationId": "getPet"}, "parameters": [], "summary": "a pet"},
            "/pets/mine": {"get": {"operationId": "two words"}},
        },
        "x-tyk-api-gateway": {"info": {"name": "Pet\tShop"}, "server": {"listenPath": {"value": "/shop/"}}},
    }
    found = read_document(document(tmp_path, json.dumps(api, indent="\t"), "api.json"))
    assert (found.title, found.listen_path) == ("Pet Shop", "/shop/")
    assert found.operations == (
        Operation("GET /pets/mine", "GET", "/pets/mine"),
        Operation("getPet", "GET", "/pets/{id}"),
    )
    assert read_document(document(tmp_path, json.dumps(api))) == found


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the document must be an object"),
        ("- a\n", 1, "the document must be an object"),
        ("a: b\nc: [\n", 3, "is not YAML"),
        ('{"openapi": "3.0.0",\n "info": }', 2, "is not JSON: Expecting value"),
        ("info: {}\n", 1, "no OpenAPI document, it has neither openapi nor swagger"),
        ("proxy: {}\n", 1, "classic API definition; export it as Tyk OAS"),
        ("openapi: 3\ninfo:\n  title: [a]\npaths: {}\n", 3, "the title must be a text"),
        ("openapi: 3\ninfo: {}\n", 1, "has no paths"),
        ("openapi: 3\npaths:\n  - /a\n", 3, "paths must be an object"),
        ("openapi: 3\npaths:\n  pets:\n    get: {}\n", 4, "the path pets must begin with /"),
        ("openapi: 3\npaths:\n  /größe:\n    get: {}\n", 4, "printable ASCII"),
        ("openapi: 3\npaths:\n  /a:\n    get: yes\n", 4, "get of /a must be an object"),
        ("openapi: 3\npaths:\n  /a:\n    get: {operationId: x}\n    put: {operationId: x}\n", 5, "is in line 4 too"),
        ("openapi: 3\npaths:\n  /{a}:\n    get: {}\n  /{b}:\n    get: {}\n", 6, "GET /{} is in line 4 too"),
        ("openapi: 3\npaths: {}\nx-tyk-api-gateway:\n  server:\n    listenPath: {value: a}\n", 5, "begins with /"),
    ],
)
def test_bad_documents_are_answered_with_the_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = document(tmp_path, text)
    with pytest.raises(CommandError) as caught:
        create(tmp_path, "mine", ("pre",), path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, '{"a":' * 100_000, "- " * 50_000, "a: &a [*a]\n"])
def test_hostile_documents_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CommandError):
        read_document(document(tmp_path, text))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none\.yaml: cannot be read: No such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(CommandError, match="zero: cannot be read: larger than 16,777,216 bytes"):
        read_document(Path("/dev/zero"))
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    with pytest.raises(CommandError, match="not UTF-8"):
        read_document(tmp_path / "latin.yaml")


def test_a_title_without_letters_needs_a_name(tmp_path: Path) -> None:
    path = document(tmp_path, "openapi: 3\ninfo: {title: 宠物}\npaths: {}\n")
    with pytest.raises(CommandError, match="no name can be made of the title '宠物'; write tykpy new NAME"):
        create(tmp_path, "", ("pre",), path)


def test_text_of_a_document_cannot_become_code(tmp_path: Path) -> None:
    api = {
        "openapi": "3.0.0",
        "info": {"title": 'x"""\nimport os\n\\ @KEY@ "'},
        "paths": {'/a"),}; import os #': {"get": {}}, "/b\\": {"get": {"operationId": 'b"+c'}}},
    }
    api["paths"] = {path.replace(" ", ""): item for path, item in api["paths"].items()}  # type: ignore[attr-defined]
    create(tmp_path, "mine", ("pre",), document(tmp_path, json.dumps(api)))
    names: dict[str, object] = {}
    exec((tmp_path / "mine" / "operations.py").read_text(), names)
    assert "os" not in names
    assert names["OPERATIONS"] == {
        'GET /a"),};importos#': ("GET", '/a"),};importos#'),
        "GET /b\\": ("GET", "/b\\"),
    }


def test_without_pyyaml_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CommandError, match=r"--from-openapi needs PyYAML: pip install 'tykpy\[dev\]'"):
        read_document(document(tmp_path, "openapi: 3\npaths: {}\n"))
