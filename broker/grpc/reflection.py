"""Server reflection (`grpc.reflection.v1` and `v1alpha`), so that tools such as `grpcurl` need no .proto file.

The descriptors are a FileDescriptorSet beside this file, `services.binpb`, which is read here: the broker imports
neither protobuf nor the messages that it never decodes.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.head import Method
from tykpy.broker.grpc.local_call import LocalCall
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.broker.protowire import ProtobufError, bytes_fields, pack_bytes, pack_int

# ServerReflectionRequest
_FILE_BY_FILENAME: Final = 3
_FILE_CONTAINING_SYMBOL: Final = 4
_FILE_CONTAINING_EXTENSION: Final = 5
_ALL_EXTENSIONS_OF_TYPE: Final = 6
_LIST_SERVICES: Final = 7
# ServerReflectionResponse
_ORIGINAL_REQUEST: Final = 2
_FILE_DESCRIPTORS: Final = 4
_EXTENSION_NUMBERS: Final = 5
_SERVICES: Final = 6
_ERROR: Final = 7

# FileDescriptorProto and what it contains: fields that define names, with the fields within them that do
_NAME: Final = 1
_PACKAGE: Final = 2
_DEPENDENCY: Final = 3
_ENUM: Final[dict[int, Any]] = {}
_MESSAGE: Final[dict[int, Any]] = {4: _ENUM}
_MESSAGE[3] = _MESSAGE
_SERVICE: Final = 6
_METHOD: Final[dict[int, Any]] = {}
_DEFINITIONS: Final[dict[int, Any]] = {4: _MESSAGE, 5: _ENUM, _SERVICE: {2: _METHOD}}


class _File(NamedTuple):
    """One .proto file."""

    packed: bytes
    """Its FileDescriptorProto."""
    imports: list[str]


class _Descriptors(NamedTuple):
    """What the broker offers."""

    files: dict[str, _File]
    """By name."""
    symbols: dict[str, _File]
    """By the full names of messages, enums, services and methods."""
    services: list[str]


@cache
def descriptors() -> _Descriptors:
    """Read the descriptors of all services."""
    found = _Descriptors({}, {}, [])
    for _, packed in bytes_fields((files(__package__) / "services.binpb").read_bytes()):
        fields = list(bytes_fields(packed))
        texts = {number: value.decode() for number, value in fields if number in (_NAME, _PACKAGE)}
        file = _File(packed, [value.decode() for number, value in fields if number == _DEPENDENCY])
        found.files[texts[_NAME]] = file
        for number, value in fields:
            if number in _DEFINITIONS:
                names = list(_names(value, f"{texts[_PACKAGE]}.", _DEFINITIONS[number]))
                found.symbols.update(dict.fromkeys(names, file))
                found.services.extend(names[:1] if number == _SERVICE else ())
    return found


def _names(packed: bytes, prefix: str, inner: dict[int, Any]) -> Iterator[str]:
    """Yield the full names that a descriptor defines, its own first."""
    fields = list(bytes_fields(packed))
    name = prefix + dict(fields)[_NAME].decode()
    yield name
    for number, value in fields:
        if number in inner:
            yield from _names(value, f"{name}.", inner[number])


def reflection_methods() -> dict[bytes, Method]:
    """Return the services' entries for the table of methods; both versions have the same messages."""
    method = Method(serve=_Reflection)
    return {
        b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": method,
        b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": method,
    }


class _Reflection(LocalCall):
    """One call: answers each question."""

    __slots__ = ()

    takes_many = True

    def message(self, payload: bytes) -> None:
        """Answer one question."""
        try:
            answer = _answer(payload)
        except (ProtobufError, UnicodeDecodeError) as error:
            text = f"ServerReflectionRequest: {error}"
            raise GrpcCallError(GrpcCode.INVALID_ARGUMENT, text) from error
        self.send(pack_bytes(_ORIGINAL_REQUEST, payload) + answer)


def _answer(payload: bytes) -> bytes:
    question, argument = 0, ""
    for number, value in bytes_fields(payload):
        if _FILE_BY_FILENAME <= number <= _LIST_SERVICES:
            question = number
            argument = "" if number == _FILE_CONTAINING_EXTENSION else value.decode()
    if question == _FILE_BY_FILENAME:
        return _pack_file(descriptors().files.get(argument), f"file {argument!r}")
    if question == _FILE_CONTAINING_SYMBOL:
        return _pack_file(descriptors().symbols.get(argument), f"symbol {argument!r}")
    if question == _LIST_SERVICES:
        return _pack_services()
    if question == _ALL_EXTENSIONS_OF_TYPE and argument in descriptors().symbols:
        return pack_bytes(_EXTENSION_NUMBERS, pack_bytes(1, argument.encode()))
    if question in (_FILE_CONTAINING_EXTENSION, _ALL_EXTENSIONS_OF_TYPE):
        return _pack_error(GrpcCode.NOT_FOUND, "no such extension")
    return _pack_error(GrpcCode.INVALID_ARGUMENT, "no question in the request")


def _pack_file(file: _File | None, what: str) -> bytes:
    """Encode a file and all its imports, itself first."""
    if file is None:
        return _pack_error(GrpcCode.NOT_FOUND, f"no {what}")
    by_name, needed = descriptors().files, [file]
    for known in needed:
        needed += [by_name[name] for name in known.imports if by_name[name] not in needed]
    return pack_bytes(_FILE_DESCRIPTORS, b"".join(pack_bytes(1, known.packed) for known in needed))


def _pack_services() -> bytes:
    names = sorted(descriptors().services)
    return pack_bytes(_SERVICES, b"".join(pack_bytes(1, pack_bytes(1, name.encode())) for name in names))


def _pack_error(code: GrpcCode, message: str) -> bytes:
    return pack_bytes(_ERROR, pack_int(1, code) + pack_bytes(2, message.encode()))
