"""Errors of an HTTP/2 connection, with the code that is sent to the peer (RFC 9113, section 7)."""

from enum import IntEnum


class ErrorCode(IntEnum):
    """Error codes of the wire."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """Root of the core's errors."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PeerError(Http2Error):
    """Unexpected: a fault of the peer that ends the connection with a GOAWAY."""


class FinishedStreamError(Http2Error):
    """Unexpected: a bug; something is sent on a stream that was answered or is gone."""

    def __init__(self, stream_id: int) -> None:
        super().__init__(ErrorCode.INTERNAL_ERROR, f"stream {stream_id} is answered or gone: nothing can be sent on it")


class MalformedError(Http2Error):
    """Unexpected: a header list that violates RFC 9113, section 8; its stream is reset."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, message)
