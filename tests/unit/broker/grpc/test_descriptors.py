"""The descriptors of server reflection."""

import ast
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.support.peers.write_descriptors import symbols, tyk_files
from tykpy.broker.grpc import descriptors
from tykpy.broker.grpc.descriptors import FILES, SERVICES


def test_descriptors_are_those_of_the_messages_in_use() -> None:
    """If this fails, run `python -m tests.support.peers.write_descriptors`."""
    known = {file.name: file.serialized for file in FILES}
    for serialized in tyk_files():
        wanted = FileDescriptorProto.FromString(serialized)
        assert FileDescriptorProto.FromString(known[wanted.name]) == wanted


def test_each_file_lists_its_symbols() -> None:
    for file in FILES:
        content = FileDescriptorProto.FromString(file.serialized)
        assert (file.name, list(file.imports), list(file.symbols)) == (
            content.name,
            list(content.dependency),
            symbols(content),
        )


def test_every_import_and_service_is_there() -> None:
    names = {file.name for file in FILES}
    assert all(set(file.imports) <= names for file in FILES)
    assert set(SERVICES) <= {symbol for file in FILES for symbol in file.symbols}


def test_the_broker_needs_no_protobuf_for_them() -> None:
    tree = ast.parse(Path(descriptors.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"typing"}
