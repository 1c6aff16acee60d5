"""The dispatch that every server answers: a typical POST on its way upstream, and the answer that is right."""

import hashlib
import struct
from collections.abc import Callable
from typing import Final

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object

OBJECT_SIZE: Final = 855
"""Bytes of the serialized object, as stated beside the project's figures."""
DISPATCH_PATH: Final = "/coprocess.Dispatcher/Dispatch"
BUNDLE_NAME: Final = "bundle"
HOOK_NAME: Final = "AddHeader"
HEADER: Final = "X-Bench"
HEADER_VALUE: Final = "1"

_BODY: Final = '{"customer": 4711, "items": [{"sku": "A-100", "count": 2}], "note": "ring twice"}'
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate, br",
    "Content-Length": str(len(_BODY)),
    "Content-Type": "application/json",
    "Host": "api.example.com",
    "Priority": "u=1",
    "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "X-Forwarded-For": "203.0.113.7",
    "X-Request-Id": "7b0c5b0e-6e1f-4b0e-9a55-3a1f7f0c2d11",
}
_FRAME_HEAD: Final = ">?I"


def typical_post() -> Object:
    """Return the object that a gateway sends for a Post hook of an API without authentication."""
    item = Object(hook_type=HookType.Post, hook_name=HOOK_NAME)
    request = item.request
    request.headers.update(_HEADERS)
    request.body = _BODY
    request.raw_body = _BODY.encode()
    request.url = "/orders/v2/customers/47110/orders?currency=EUR"
    request.request_uri = request.url
    request.params["currency"] = "EUR"
    request.method = "POST"
    request.scheme = "http"
    request.return_overrides.response_code = -1
    item.spec["APIID"] = "9b3f4f1c2d0e4a7c8a5d6e7f80912a3b"
    item.spec["OrgID"] = "5e9d9544a1dcd60001d0ed20"
    item.spec["bundle_hash"] = hashlib.md5(BUNDLE_NAME.encode(), usedforsecurity=False).hexdigest()
    return item


def request_bytes() -> bytes:
    """Return the serialized object; raises ValueError unless it has the stated size."""
    data = typical_post().SerializeToString(deterministic=True)
    if len(data) != OBJECT_SIZE:
        raise ValueError(f"the benchmark's object has {len(data)} bytes, not {OBJECT_SIZE}")
    return data


def upload(size: int) -> Object:
    """Return the same POST with a body of `size` bytes that is not UTF-8: the gateway sends it once, in `raw_body`."""
    item = typical_post()
    item.request.headers["Content-Type"] = "application/octet-stream"
    item.request.headers["Content-Length"] = str(size)
    item.request.ClearField("body")
    item.request.raw_body = b"\xff" * size
    return item


def framed(data: bytes) -> bytes:
    """Return a message as gRPC frames it: not compressed, length, bytes."""
    return struct.pack(_FRAME_HEAD, False, len(data)) + data


def expected_answer(item: Object | None = None) -> Object:
    """Return what the hook makes of an object, by default the typical one."""
    answer = typical_post() if item is None else Object.FromString(item.SerializeToString())
    answer.request.set_headers[HEADER] = HEADER_VALUE
    return answer


def answers(item: Object) -> Callable[[Object], bool]:
    """Return a check for the one right answer to an object."""
    expected = expected_answer(item)
    return lambda answer: answer == expected


def has_header(answer: Object) -> bool:
    """Return whether an answer has the header that the hooks of all benchmarks set."""
    return answer.request.set_headers[HEADER] == HEADER_VALUE
