"""Sections 4 and 7: how hooks change the response."""

import gzip
import http.client

import pytest

from tests.support.gateway.gateway import Answer
from tests.support.gateway.table import Table

COOKIES = ["a=1", "b=2", "c=3"]


def answer_of(table: Table, hook: str, path: str, *headers: tuple[str, str]) -> Answer:
    """Return the answer to a request whose API has this response hook."""
    return table.api("responses", response=[hook]).send(path=path, headers=list(headers))


def headers_of(answer: Answer) -> list[tuple[str, str]]:
    """Return all headers except Date, which changes every second."""
    return sorted(header for header in answer.headers if header[0] != "Date")


@pytest.mark.parametrize(("path", "body"), [("/utf8", "grüße".encode()), ("/binary", b"\xff\x00\xfe"), ("/empty", b"")])
def test_an_unchanged_response_is_passed_on_as_is(table: Table, path: str, body: bytes) -> None:
    plain = table.api(None).send(path=path)
    answer = answer_of(table, "nothing_changed", path)
    assert (answer.status, answer.body) == (plain.status, plain.body) == (plain.status, body)
    assert headers_of(answer) == headers_of(plain)


def test_a_response_hook_that_returns_nothing_still_answers(table: Table) -> None:
    assert answer_of(table, "returns_nothing", "/utf8").body == b"changed in place"


def test_the_body_becomes_response_raw_body(table: Table) -> None:
    answer = answer_of(table, "set_raw_body", "/utf8")
    assert answer.body == b"\xff from the hook"
    assert answer.value("Content-Length") == str(len(answer.body))


def test_changing_only_the_response_body_changes_nothing(table: Table) -> None:
    assert answer_of(table, "set_only_body", "/utf8").body == "grüße".encode()


def test_the_code_becomes_response_status_code(table: Table) -> None:
    assert answer_of(table, "set_status", "/utf8").status == 418


def test_three_cookies_pass_a_hook_that_leaves_them(table: Table) -> None:
    assert answer_of(table, "nothing_changed", "/cookies").values("Set-Cookie") == COOKIES


def test_changed_headers_are_copied_into_multivalue_headers(table: Table) -> None:
    answer = answer_of(table, "change_headers", "/cookies")
    assert answer.value("X-New") == "new"
    assert answer.values("Set-Cookie") == ["z=26", "b=2", "c=3"]
    assert answer.values("X-Upstream") == []


def test_headers_are_rebuilt_from_multivalue_headers(table: Table) -> None:
    answer = answer_of(table, "change_multivalue_headers", "/cookies")
    assert answer.values("Set-Cookie") == [*COOKIES, "d=4"]
    assert answer.values("X-Pair") == ["one", "two"]


def test_changed_headers_drop_keys_only_in_multivalue_headers(table: Table) -> None:
    answer = answer_of(table, "add_cookies_and_header", "/cookies")
    assert (answer.value("X-New"), answer.values("X-Lost")) == ("new", [])
    assert answer.values("Set-Cookie") == COOKIES


def test_a_compressed_body_arrives_compressed_and_body_is_empty(table: Table) -> None:
    answer = answer_of(table, "describe_body", "/gzip", ("Accept-Encoding", "gzip"))
    assert gzip.decompress(answer.body) == b"compressed"
    assert answer.value("X-Sizes") == f"{len(answer.body)} 0"
    assert answer.value("Content-Encoding") == "gzip"


def test_a_body_compressed_only_for_the_gateway_arrives_plain(table: Table) -> None:
    answer = answer_of(table, "describe_body", "/gzip")
    assert (answer.body, answer.value("X-Sizes")) == (b"compressed", "10 10")
    assert answer.value("Content-Encoding") is None


def test_a_zero_status_code_breaks_the_answer(table: Table) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        answer_of(table, "zero_status", "/utf8")
    assert "invalid WriteHeader code 0" in table.gateway.log


def test_response_hooks_chain(table: Table) -> None:
    api = table.api("responses", response=["set_status", "change_headers", "returns_nothing"])
    answer = api.send(path="/cookies")
    assert (answer.status, answer.body, answer.value("X-New")) == (418, b"changed in place", "new")
    assert [name for _, name in api.dispatches()] == ["set_status", "change_headers", "returns_nothing"]


def test_our_error_in_a_response_hook_is_error_500(table: Table) -> None:
    answer = answer_of(table, "fail", "/utf8")
    assert (answer.status, answer.json) == (500, {"error": "Middleware error"})


def test_a_new_response_object_is_taken(table: Table) -> None:
    answer = answer_of(table, "new_object", "/utf8")
    assert (answer.status, answer.body, answer.value("X-Another")) == (202, b"another object", "yes")


def test_the_whole_body_of_a_response_is_buffered_for_the_hook(table: Table) -> None:
    answer = answer_of(table, "describe_body", "/large")
    assert answer.value("X-Sizes") == f"{5 * 1024 * 1024} {5 * 1024 * 1024}"
    assert answer.body == b"x" * (5 * 1024 * 1024)
