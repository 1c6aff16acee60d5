"""What came of one hook call: the request that goes on, the answer instead of it, and what changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import ResponseObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import canonical_header
from tyk.session import TykSession
from tykpy.bundles.shapes import complete_reply
from tykpy.workers.dispatch.ignored_changes import Ignored
from tykpy.workers.dispatch.sampled_checks import changes_ignored
from tykpy.workers.objects.chain import RequestEffects, ResponseEffects
from tykpy.workers.objects.changes import Change, changes_of


class Headers(dict[str, str]):
    """Headers under their canonical names (`X-Id`); looking one up, the case does not matter."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__((canonical_header(name), value) for name, value in headers.items())

    def __getitem__(self, name: str) -> str:
        __tracebackhide__ = True  # pytest shows the line of the test
        if name not in self:
            raise KeyError(f"no header {name}; there are: {', '.join(sorted(self)) or 'none'}")
        return super().__getitem__(canonical_header(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(canonical_header(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, or `default`."""
        return super().get(canonical_header(name), default)


@dataclass(frozen=True)
class HookResult:
    """What a hook made of the object it was called with."""

    hook: str
    """The hook's name."""
    sent: Object
    """The object before the hook."""
    received: Object
    """The object after it, as the gateway gets it."""

    @cached_property
    def request(self) -> MiniRequestObject:
        """The request with the hook's changes, as the gateway would send it to the next hook."""
        effects = RequestEffects(_copy(self.sent), 2)
        effects.next_call(raw_body_only=False)
        effects.apply(_copy(self.received))
        return effects.next_call(raw_body_only=False)[1].object

    @cached_property
    def headers(self) -> Headers:
        """The headers of the request that goes on."""
        return Headers(self.request.headers)

    @property
    def params(self) -> dict[str, str]:
        """The query of the request that goes on, with the first value of each name."""
        return dict(self.request.params)

    @property
    def method(self) -> str:
        """The method of the request that goes on."""
        return self.request.method

    @property
    def url(self) -> str:
        """Path and query of the request that goes on."""
        return self.request.url

    @property
    def body(self) -> bytes:
        """The body of the request that goes on."""
        return self.request.raw_body

    @property
    def overrides(self) -> ReturnOverrides | None:
        """The answer to the client in place of the upstream's; None: the request goes on."""
        overrides = self.received.request.return_overrides
        return overrides if overrides.response_code > 0 else None

    @property
    def session(self) -> TykSession:
        """The session after the hook."""
        return self.received.session

    @property
    def metadata(self) -> dict[str, str]:
        """The session's metadata after the hook."""
        return dict(self.received.session.metadata)

    @cached_property
    def response(self) -> ResponseObject:
        """The upstream's response with the changes of a `@Response` hook, as the gateway would send it on."""
        effects = ResponseEffects(_copy(self.sent))
        effects.apply(self.received)
        return effects.next_call(raw_body_only=False)[0].response

    @property
    def changes(self) -> list[Change]:
        """Every field that the hook changed."""
        return changes_of(self.sent, self.received)

    @property
    def ignored(self) -> list[Ignored]:
        """Changes that the gateway ignores."""
        before = _copy(self.sent)
        complete_reply(before)
        return list(changes_ignored(before, self.received))

    def __str__(self) -> str:
        """Return the hook's name and its changes, one in a line, and what the gateway ignores."""
        kind = HookType.Name(self.sent.hook_type)
        lines = [f"{self.hook} ({kind}) changed" + ("" if self.changes else " nothing")]
        lines += [f"  {change}" for change in self.changes]
        lines += [f"  ! {found}" for found in self.ignored]
        return "\n".join(lines)


def _copy(obj: Object) -> Object:
    copied = Object()
    copied.CopyFrom(obj)
    return copied
