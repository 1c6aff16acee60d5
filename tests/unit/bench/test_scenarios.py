"""The built-in scenarios are what they are called."""

import ast
from itertools import pairwise

import pytest

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.command import SCENARIOS
from tykpy.bench.scenarios import ALL, BUILT_IN, KIB, MIB

PURE = {
    "asyncio",
    "base64",
    "hashlib",
    "hmac",
    "json",
    "time",
    "typing",
    "tyk.decorators",
    "tyk.request",
    "tyk.session",
}


def test_the_command_knows_all_of_them() -> None:
    assert set(SCENARIOS) == {*BUILT_IN, ALL}


def test_a_big_session_is_big() -> None:
    obj = BUILT_IN["session"].build(None)
    assert len(obj.session.access_rights) == len(obj.session.metadata) == len(obj.session.oauth_keys) == 100
    assert obj.ByteSize() > 10 * BUILT_IN["header"].build(None).ByteSize()


def test_bodies_have_the_stated_sizes() -> None:
    body = BUILT_IN["body"]
    sizes = [size for size in body.body_sizes if size is not None]
    assert (sizes[0], sizes[-1]) == (KIB, 4 * MIB)
    assert all(small < large for small, large in pairwise(sizes))
    for size in sizes:
        assert len(body.build(size).request.raw_body) == size


def test_the_jwt_is_checked_in_pure_python() -> None:
    (file,) = BUILT_IN["jwt"].files
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= PURE


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_unchanged_answer_is_wrong(name: str) -> None:
    scenario = BUILT_IN[name]
    sent = scenario.build(None)
    sent.request.raw_body = b'{"total": 0}'
    assert not scenario.is_right(sent)
    assert not scenario.is_right(Object(request={"raw_body": b'{"total": 1}'}))
