"""API definitions, classic and OAS, become the same APIs; errors name file and line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import write_bundle
from tests.support.gateway.tyk_definitions import classic, oas
from tykpy.bundles.files.discovery import candidate_at
from tykpy.devserver.definitions.api import Api, PathRule, find_api
from tykpy.devserver.definitions.apis import check_unique, definition_files, parse_api
from tykpy.devserver.definitions.bundles import middleware_of_candidate
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.errors import DefinitionError, DevError

OWN = {"api_id": "an-api", "org_id": "an-org", "listen_path": "/here/", "custom_middleware_bundle": "b.zip"}
HOOKS = {"driver": "grpc", "pre": [{"name": "a", "raw_body_only": True}, {"name": "b", "disabled": True}]}
STYLES = {"classic": classic, "oas": oas}


def parsed(definition: dict[str, Any], style: str = "classic") -> Api:
    return parse_api(JsonFile(json.dumps(STYLES[style]({**OWN, **definition}, "http://upstream")), "api.json"))


@pytest.mark.parametrize(
    "definition",
    [
        {"use_keyless": True, "config_data": {"limit": 5}},
        {"enable_coprocess_auth": True, "use_standard_auth": True, "base_identity_provided_by": "auth_token"},
        {"enable_coprocess_auth": True, "config_data": {"limit": 5}, "config_data_disabled": True},
        {"use_keyless": True, "custom_middleware_bundle_disabled": True, "custom_middleware": HOOKS},
        {"enable_coprocess_auth": True, "custom_middleware": {"driver": "grpc", "auth_check": {"name": "c"}}},
    ],
)
def test_both_forms_of_a_definition_are_one_api(definition: dict[str, Any]) -> None:
    definition.setdefault("custom_middleware", {"driver": "grpc"})
    one, other = (parsed(definition, style) for style in STYLES)
    assert dataclasses.replace(one, cache_seconds=other.cache_seconds) == other


@pytest.mark.parametrize("style", STYLES)
def test_hooks_get_the_nulls_of_their_data(style: str) -> None:
    data = {"list": [1, None, 2], "none": None, "deep": {"none": None}}
    api = parsed({"use_keyless": True, "custom_middleware": {"driver": "grpc"}, "config_data": data}, style)
    assert api.config_data == data


@pytest.mark.parametrize(
    ("rule", "definition"),
    [
        ("rewrites", {"url_rewrite": {"path": "/e", "match_pattern": ".*", "rewrite_to": "http://x/y"}}),
        ("method_transforms", {"method_transform": {"path": "/e", "to_method": "POST"}}),
        ("cached", {"cached": "/e"}),
        ("ignored", {"ignored": "/e"}),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_rules_of_paths_are_read(style: str, rule: str, definition: dict[str, Any]) -> None:
    (found,) = getattr(parsed({"use_keyless": True, **definition}, style), rule)
    of_path = found if isinstance(found, PathRule) else found.rule
    assert (of_path.matches("GET", "/e"), of_path.matches("GET", "/other")) == (True, False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n "api_id": "x",\n "proxy": {\n  "listen_path": 7\n }\n}', "api.json:4: proxy.listen_path"),
        ('{\n "api_id": "x",\n "custom_middleware": {"pre": [\n  {"name": "a"},\n  {"name": []}]}\n}', "api.json:5: "),
        ('{\n "api_id": }', "api.json:2: not JSON"),
        ('{\n "openapi": "3.0.3"}', "api.json:1: an OpenAPI document without"),
        ("{}", 'api.json:1: no "api_id"'),
    ],
)
def test_an_error_names_the_line(text: str, place: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        parse_api(JsonFile(text, "api.json"))
    assert str(raised.value).startswith(place)


def test_null_counts_as_absent() -> None:
    text = '{"api_id": "x", "custom_middleware": {"pre": null, "post": [null, {"name": "a"}]}, "use_keyless": null}'
    api = parse_api(JsonFile(text, "api.json"))
    assert ([hook.name for hook in api.middleware.post], api.is_keyless) == (["a"], False)


def test_what_is_left_out_is_told() -> None:
    text = '{"api_id": "x", "enable_jwt": true, "use_oauth2": true}'
    assert parse_api(JsonFile(text, "api.json")).left_out == ("OAuth 2", "JWT authentication")


def test_the_longest_listen_path_wins() -> None:
    apis = [Api(api_id="a", listen_path="/"), Api(api_id="b", listen_path="/b/"), Api(api_id="c", listen_path="/b/c/")]
    found = [find_api(apis, path) for path in ("/b/c/1", "/b/1", "/b", "/1")]
    assert [api.api_id if api else None for api in found] == ["c", "b", "b", "a"]


def test_two_apis_cannot_have_one_listen_path() -> None:
    with pytest.raises(DefinitionError, match=r"b.json: the listen path / is that of a.json as well"):
        check_unique(Api(api_id="b", file="b.json"), {"the listen path /": Api(api_id="a", file="a.json")})


def test_an_export_of_a_dashboard_is_read() -> None:
    text = '{"api_model": {},\n "api_definition": {"api_id": "x", "proxy": {"listen_path": "/x/"}}}'
    assert parse_api(JsonFile(text, "api.json")).listen_path == "/x/"
    with pytest.raises(DefinitionError, match=r"api.json:2: api_definition.api_id: Expected `str`"):
        parse_api(JsonFile('{"api_model": {},\n "api_definition": {"api_id": 7}}', "api.json"))


def test_of_two_files_of_an_api_the_document_counts(tmp_path: Path) -> None:
    for name in ("a.json", "a-oas.json", "b.json", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in definition_files([tmp_path])] == ["a-oas.json", "b.json"]


@pytest.mark.parametrize("is_folder_left", [True, False])
def test_a_bundle_that_is_being_removed_is_an_error(tmp_path: Path, is_folder_left: bool) -> None:
    """`tykpy dev` shows it, and goes on."""
    folder = write_bundle(tmp_path / "mine", {"middleware.py": ""})
    found = candidate_at(folder)
    assert found is not None
    for file in folder.iterdir():
        file.unlink()
    if not is_folder_left:
        folder.rmdir()
    with pytest.raises(DevError, match=str(folder)):
        middleware_of_candidate(found)
