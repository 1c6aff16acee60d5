"""Writes broker/grpc/descriptors.py: `python -m tests.support.peers.write_descriptors`, when a .proto file changed."""

import base64
import zlib
from typing import Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.root import ROOT
from tyk.proto import (
    coprocess_common_pb2,
    coprocess_mini_request_object_pb2,
    coprocess_object_pb2,
    coprocess_response_object_pb2,
    coprocess_return_overrides_pb2,
    coprocess_session_state_pb2,
)

TARGET: Final = ROOT / "broker" / "grpc" / "descriptors.py"
_LINE: Final = 100
_HEAD: Final = '''"""Descriptors of the services that the broker offers, for server reflection.

Written by `python -m tests.support.peers.write_descriptors`: do not edit. A test compares it with the messages in use.
"""

import base64
import zlib
from typing import Final, NamedTuple


class DescriptorFile(NamedTuple):
    """One .proto file: its imports, the full names that it defines, and its FileDescriptorProto."""

    name: str
    imports: tuple[str, ...]
    symbols: tuple[str, ...]
    packed: str

    @property
    def serialized(self) -> bytes:
        """The FileDescriptorProto."""
        return zlib.decompress(base64.b85decode(self.packed))

'''


def tyk_files() -> list[bytes]:
    """Return the serialized descriptors of Tyk's messages, as the workers have them."""
    modules = (
        coprocess_common_pb2,
        coprocess_return_overrides_pb2,
        coprocess_mini_request_object_pb2,
        coprocess_response_object_pb2,
        coprocess_session_state_pb2,
        coprocess_object_pb2,
    )
    return [module.DESCRIPTOR.serialized_pb for module in modules]


def _reflection_v1() -> bytes:
    """Version 1 has the messages of v1alpha under another name."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    file.ClearField("options")
    for message in file.message_type:
        for field in filter(lambda field: field.type_name, message.field):
            field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file.SerializeToString()


def all_files() -> list[FileDescriptorProto]:
    """Every file that reflection knows."""
    others = [health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb, _reflection_v1()]
    return [FileDescriptorProto.FromString(data) for data in tyk_files() + others]


def symbols(file: FileDescriptorProto) -> list[str]:
    """Full names of a file's messages (fields and nested messages too), enums and services (methods too)."""
    prefix = f"{file.package}." if file.package else ""
    names: list[str] = []
    for message in file.message_type:
        names += _message_symbols(prefix, message)
    names += [prefix + enum.name for enum in file.enum_type]
    for service in file.service:
        names.append(prefix + service.name)
        names += [f"{prefix}{service.name}.{method.name}" for method in service.method]
    return names


def _message_symbols(prefix: str, message: DescriptorProto) -> list[str]:
    name = prefix + message.name
    names = [name]
    for nested in message.nested_type:
        names += _message_symbols(name + ".", nested)
    return names + [f"{name}.{enum.name}" for enum in message.enum_type]


def _literal(text: str, indent: str) -> str:
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "".join(f'{indent}"{line}"\n' for line in lines)


def _tuple(names: list[str], indent: str) -> str:
    return "(\n" + "".join(f'{indent}    "{name}",\n' for name in names) + f"{indent})" if names else "()"


def render() -> str:
    """The module's text."""
    files = all_files()
    parts = [_HEAD, "\n# fmt: off\nFILES: Final = (\n"]
    for file in files:
        packed = base64.b85encode(zlib.compress(file.SerializeToString(deterministic=True), 9)).decode()
        parts.append(f'    DescriptorFile(\n        "{file.name}",\n')
        parts.append(f"        {_tuple(list(file.dependency), '        ')},\n")
        parts.append(f"        {_tuple(symbols(file), '        ')},\n")
        parts.append(f"{_literal(packed, '        ')}    ),\n")
    services = sorted(f"{file.package}.{service.name}" for file in files for service in file.service)
    parts.append(f")\n\nSERVICES: Final = {_tuple(services, '')}\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render())
