"""The descriptors of server reflection."""

import ast
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from tests.support.peers.write_descriptors import TARGET, all_files, tyk_files
from tykpy.broker.grpc import reflection
from tykpy.broker.grpc.reflection import descriptors


def test_descriptors_are_those_of_the_messages_in_use() -> None:
    """If this fails, run `python -m tests.support.peers.write_descriptors`."""
    known = descriptors().files
    for serialized in tyk_files():
        wanted = FileDescriptorProto.FromString(serialized)
        assert FileDescriptorProto.FromString(known[wanted.name].packed) == wanted


def test_every_symbol_is_found_in_its_file() -> None:
    pool = DescriptorPool()
    for file in all_files().file:
        pool.Add(file)
        assert descriptors().files[file.name].imports == list(file.dependency)
    for symbol, described in descriptors().symbols.items():
        owner = symbol.rpartition(".")[0]
        known = owner if owner in descriptors().services else symbol  # the pool does not find methods
        assert pool.FindFileContainingSymbol(known).serialized_pb == described.packed


def test_names_of_each_kind_are_known() -> None:
    found = descriptors()
    assert found.symbols.keys() > {
        "coprocess.Object.SpecEntry",
        "coprocess.HookType",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        "coprocess.Dispatcher.DispatchEvent",
    }
    assert found.services == [
        "coprocess.Dispatcher",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    ]
    assert all(set(file.imports) <= found.files.keys() for file in found.files.values())


def test_the_broker_needs_no_protobuf_for_them() -> None:
    tree = ast.parse(Path(reflection.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name and name.startswith("google") for name in imported)
    assert TARGET.parent == Path(reflection.__file__).resolve().parent
