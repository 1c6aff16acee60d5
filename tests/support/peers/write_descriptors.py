"""Write broker/grpc/services.binpb: `python -m tests.support.peers.write_descriptors`, when a .proto file changed."""

from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
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

TARGET: Final = ROOT / "broker" / "grpc" / "services.binpb"


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


def all_files() -> FileDescriptorSet:
    """Return every file that reflection knows."""
    others = [health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb, _reflection_v1()]
    return FileDescriptorSet(file=[FileDescriptorProto.FromString(data) for data in tyk_files() + others])


if __name__ == "__main__":
    TARGET.write_bytes(all_files().SerializeToString(deterministic=True))
