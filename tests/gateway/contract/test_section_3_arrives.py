"""Section 3: what a hook receives. The hooks here answer with what they were given."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import md5
from tests.support.certificates import Authority
from tests.support.gateway.gateway import Headers
from tests.support.gateway.table import ORG, Table
from tests.support.gateway.tyk import any_gateway

JSON_BODY = b'{"name": "J\xc3\xbcrgen", "n": [1, 2.5, null]}'
BINARY = bytes(range(256))
EVERY_TYPE = {
    "pre": ["note_first"],
    "auth_check": "let_in",
    "post_key_auth": ["report_post_key_auth"],
}


def report_of(table: Table, path: str = "/echo", headers: Headers | None = None, body: bytes | None = None) -> Any:
    """Return what a Pre hook is given for a request."""
    return table.api("reports", pre=["report_pre"]).send("POST", path, headers, body).json


@pytest.mark.not_dev("it has no TLS")
def test_the_scheme_is_https_for_clients_that_use_tls(table: Table, tmp_path: Path) -> None:
    assert report_of(table)["request"]["scheme"] == "http"
    certificate = Authority(tmp_path, "of-clients").issue("gateway")
    folders = {"bundle_source": str(table.folder), "middleware_path": str(table.folder)}
    tls = {"tls_certificate": str(certificate.cert), "tls_key": str(certificate.key)}
    redis = table.gateway.config["redis_socket"]
    with any_gateway(tmp_path, table.broker.address, redis_socket=redis, **folders, **tls) as gateway:
        report = table.api("reports", pre=["report_pre"], gateway=gateway).send().json
        assert report["request"]["scheme"] == "https"


def test_one_call_per_configured_hook_in_manifest_order(table: Table) -> None:
    api = table.api("reports", pre=["note_first", "note_third", "note_second"])
    assert api.send().upstream.headers["X-Order"] == ["first,third,second"]
    assert api.dispatches() == [("Pre", "note_first"), ("Pre", "note_third"), ("Pre", "note_second")]


def test_hook_type_and_name_say_which_hook_of_the_chain_runs(table: Table) -> None:
    api = table.api("reports", hooks=EVERY_TYPE)
    api.send()
    assert api.dispatches() == [
        ("Pre", "note_first"),
        ("CustomKeyCheck", "let_in"),
        ("PostKeyAuth", "report_post_key_auth"),
    ]


def test_headers_have_the_first_value_in_canonical_case_and_host(table: Table) -> None:
    headers = [("x-many", "one"), ("X-MANY", "two"), ("x-lower-case", "yes")]
    received = report_of(table, headers=headers)["request"]["headers"]
    assert received["X-Many"] == "one"
    assert received["X-Lower-Case"] == "yes"
    assert received["Host"] == table.gateway.public
    assert "x-many" not in received


def test_params_have_the_first_value(table: Table) -> None:
    assert report_of(table, "/echo?a=1&a=2&b=%C3%BC&c")["request"]["params"] == {"a": "1", "b": "ü", "c": ""}


@pytest.mark.parametrize("body", [JSON_BODY, b"plain", b""], ids=["JSON", "text", "empty"])
def test_body_and_raw_body_hold_a_body_that_is_utf8(table: Table, body: bytes) -> None:
    report = report_of(table, body=body)
    assert base64.b64decode(report["raw_body"]) == body
    assert report["body"] == body.decode()


def test_body_is_empty_where_it_is_not_utf8(table: Table) -> None:
    report = report_of(table, body=BINARY)
    assert base64.b64decode(report["raw_body"]) == BINARY
    assert report["body"] == ""


def test_body_is_empty_where_the_hook_is_raw_body_only(table: Table) -> None:
    api = table.api("reports", pre=[{"name": "report_pre", "raw_body_only": True}])
    report = api.send("POST", body=JSON_BODY).json
    assert base64.b64decode(report["raw_body"]) == JSON_BODY
    assert report["body"] == ""


def test_the_override_code_arrives_as_minus_one(table: Table) -> None:
    assert report_of(table)["response_code"] == -1


def test_url_is_path_and_query_and_request_uri_stays_raw(table: Table) -> None:
    api = table.api("reports", pre=["rewrite", "report_pre"])
    request = api.send("PUT", "/echo/%C3%BC?b=2&a=1").json["request"]
    assert request["url"] == f"{api.path}/elsewhere/%C3%BC?b=2&a=1"
    assert request["request_uri"] == f"{api.path}/echo/%C3%BC?b=2&a=1"
    assert (request["method"], request["scheme"]) == ("PUT", "http")


def test_session_is_absent_for_pre_and_custom_key_check(table: Table) -> None:
    assert report_of(table)["session"] == {}
    report = table.api("reports", auth_check="report_auth").send().json
    assert (report["session"], report["metadata"]) == ({}, {})


@pytest.mark.parametrize("kind", ["post_key_auth", "post", "response"])
def test_session_is_present_for_later_hooks(table: Table, kind: str) -> None:
    api = table.api("reports", auth_check="let_in", hooks={kind: [f"report_{kind}"]})
    report = api.send(headers=[("Authorization", f"key-{kind}")]).json
    assert report["session"]["alias"] == "somebody"
    assert report["metadata"] == {"token": f"key-{kind}", "colour": "blue"}


def test_session_is_absent_for_later_hooks_where_there_is_none(table: Table) -> None:
    report = table.api("reports", post=["report_post"]).send().json
    assert (report["session"], report["metadata"]) == ({}, {})


def test_session_metadata_that_is_not_a_string_arrives_as_json(table: Table) -> None:
    metadata = {"text": "as it is", "number": 7, "list": [1, "two"], "map": {"a": None}, "yes": True}
    table.store_session("metadata-of-many-types", {"meta_data": metadata, "alias": "stored"})
    api = table.api("reports", post=["report_post"], definition={"use_standard_auth": True})
    arrived = api.send(headers=[("Authorization", "metadata-of-many-types")]).json["session"]["metadata"]
    assert arrived.pop("text") == "as it is"
    assert {key: json.loads(value) for key, value in arrived.items()} == {
        key: value for key, value in metadata.items() if key != "text"
    }


def test_object_metadata_is_a_copy_of_session_metadata(table: Table) -> None:
    report = table.api("reports", auth_check="let_in", post=["report_post"]).send().json
    assert report["metadata"] == report["session"]["metadata"] == {"token": "nobody", "colour": "blue"}


def test_spec_has_the_ids_the_bundle_hash_and_config_data(table: Table) -> None:
    data = {"limit": 5, "names": ["a", "b"]}
    api = table.api("reports", pre=["report_pre"], definition={"config_data": data})
    spec = api.send().json["spec"]
    assert json.loads(spec.pop("config_data")) == data
    hashed = md5(api.definition["custom_middleware_bundle"])
    assert spec == {"OrgID": ORG, "APIID": api.id, "bundle_hash": hashed}


@pytest.mark.parametrize("definition", [{"config_data": {}}, {"config_data": {"a": 1}, "config_data_disabled": True}])
def test_spec_has_no_config_data_where_it_is_empty_or_disabled(table: Table, definition: dict[str, Any]) -> None:
    spec = table.api("reports", pre=["report_pre"], definition=definition).send().json["spec"]
    assert sorted(spec) == ["APIID", "OrgID", "bundle_hash"]


def test_without_a_bundle_the_hash_is_that_of_the_empty_string(table: Table) -> None:
    table.api({"middleware.py": REPORTS_ITS_SPEC}, pre=["report_spec_without_bundle"]).send()
    hooks = {"driver": "grpc", "pre": [{"name": "report_spec_without_bundle"}]}
    api = table.api(None, definition={"custom_middleware": hooks})
    assert api.send().json["bundle_hash"] == "d41d8cd98f00b204e9800998ecf8427e"


def test_response_is_present_only_for_response_hooks(table: Table) -> None:
    api = table.api("reports", response=["report_response"])
    report = api.send(path="/utf8").json
    assert report["response"]["status_code"] == 200
    assert report["response_body"] == "grüße"
    assert base64.b64decode(report["response"]["raw_body"]).decode() == "grüße"
    assert report["response"]["headers"]["Content-Type"] == "text/plain; charset=utf-8"
    assert "response" not in report_of(table)


def test_response_headers_have_first_values_and_all_values(table: Table) -> None:
    response = table.api("reports", response=["report_response"]).send(path="/cookies").json["response"]
    assert response["headers"]["Set-Cookie"] == "a=1"
    many = {header["key"]: header["values"] for header in response["multivalue_headers"]}
    assert many["Set-Cookie"] == ["a=1", "b=2", "c=3"]
    assert many.keys() == response["headers"].keys()


def test_response_body_is_empty_where_it_is_not_utf8(table: Table) -> None:
    answer = table.api("reports", response=["report_response"]).send(path="/binary")
    assert answer.json["response_body"] == ""
    assert base64.b64decode(answer.json["response"]["raw_body"]) == b"\xff\x00\xfe"
    assert answer.json["response"]["status_code"] == answer.status == 201


REPORTS_ITS_SPEC = """
import json
from tyk.decorators import *

@Pre
def report_spec_without_bundle(request, session, spec):
    request.object.return_overrides.response_code = 200
    request.object.return_overrides.response_body = json.dumps(dict(spec))
    return request, session
"""
