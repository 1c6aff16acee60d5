"""The request as a hook sees it: the gateway's own object, and short ways to change headers and parameters."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject as MiniRequestObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides as ReturnOverrides

__all__ = ["TykCoProcessRequest"]

_HEADER_SEPARATOR: Final = "-"


class TykCoProcessRequest:
    """Wraps the protobuf `MiniRequestObject`, which is `request.object` and may be read and changed directly.

    The gateway applies deletions first, then what was set; it ignores changes made in `object.headers`,
    `object.params` and `object.body`: use `add_header`, `add_param` and `object.raw_body`.
    """

    object: MiniRequestObject

    def __init__(self, object: MiniRequestObject) -> None:  # noqa: A002 (the name plugin authors know it by)
        """Wrap `object`, without a copy."""
        self.object = object

    def __repr__(self) -> str:
        return f"<TykCoProcessRequest {self.object.method} {self.object.url}>"

    def get_header(self, key: str) -> str | None:
        """Return the header's first value as it arrived, or None; upper and lower case are the same.

        Headers set by `add_header` are not seen here: they are for the upstream.
        """
        return find_header(self.object.headers, key)

    def add_header(self, key: str, value: str) -> None:
        """Set a header of the request that goes on, in place of the one that came, if any."""
        self.object.set_headers[key] = value

    def delete_header(self, key: str) -> None:
        """Remove a header from the request that goes on."""
        self.object.delete_headers.append(key)

    def add_param(self, key: str, value: str) -> None:
        """Set a parameter of the query."""
        self.object.add_params[key] = value

    def delete_param(self, key: str) -> None:
        """Remove a parameter from the query."""
        self.object.delete_params.append(key)


TykRequest: TypeAlias = TykCoProcessRequest
"""The same class under a shorter name."""


def find_header(headers: Mapping[str, str], key: str) -> str | None:
    """Look for a header as it is written, as Go spells it, then through all: a sender may have any spelling."""
    value = headers.get(key)
    if value is None:
        value = headers.get(canonical_header(key))
    if value is None:
        wanted = key.lower()
        value = next((value for name, value in headers.items() if name.lower() == wanted), None)
    return value


def canonical_header(key: str) -> str:
    """Spell a header's name as Go does (`textproto.CanonicalMIMEHeaderKey`): `x-api-key` is `X-Api-Key`."""
    return _HEADER_SEPARATOR.join(word.capitalize() for word in key.split(_HEADER_SEPARATOR))
