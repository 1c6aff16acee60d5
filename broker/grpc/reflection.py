"""Server reflection (`grpc.reflection.v1` and `v1alpha`), so that tools such as `grpcurl` need no .proto file.

The descriptors are constants (`descriptors.py`), each with the names it defines, so that the broker imports neither
protobuf nor the messages that it never decodes.
"""

from collections.abc import Sequence
from typing import Final

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.descriptors import FILES, SERVICES, DescriptorFile
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

_by_name: Final = {file.name: file for file in FILES}
_by_symbol: Final = {symbol: file for file in FILES for symbol in file.symbols}


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
        return _pack_file(_by_name.get(argument), f"file {argument!r}")
    if question == _FILE_CONTAINING_SYMBOL:
        return _pack_file(_by_symbol.get(argument), f"symbol {argument!r}")
    if question == _LIST_SERVICES:
        return _pack_services(SERVICES)
    if question == _ALL_EXTENSIONS_OF_TYPE and argument in _by_symbol:
        return pack_bytes(_EXTENSION_NUMBERS, pack_bytes(1, argument.encode()))
    if question in (_FILE_CONTAINING_EXTENSION, _ALL_EXTENSIONS_OF_TYPE):
        return _pack_error(GrpcCode.NOT_FOUND, "no such extension")
    return _pack_error(GrpcCode.INVALID_ARGUMENT, "no question in the request")


def _pack_file(file: DescriptorFile | None, what: str) -> bytes:
    """Encode a file and all its imports, itself first."""
    if file is None:
        return _pack_error(GrpcCode.NOT_FOUND, f"no {what}")
    files = [file]
    for known in files:
        files += [_by_name[name] for name in known.imports if _by_name[name] not in files]
    return pack_bytes(_FILE_DESCRIPTORS, b"".join(pack_bytes(1, known.serialized) for known in files))


def _pack_services(services: Sequence[str]) -> bytes:
    return pack_bytes(_SERVICES, b"".join(pack_bytes(1, pack_bytes(1, name.encode())) for name in services))


def _pack_error(code: GrpcCode, message: str) -> bytes:
    return pack_bytes(_ERROR, pack_int(1, code) + pack_bytes(2, message.encode()))
