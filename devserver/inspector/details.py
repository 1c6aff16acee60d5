"""What the page shows of a request, as JSON: bounded, and with secrets masked unless they are asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from tykpy.devserver.hooks.masking import MASK, is_secret, is_secret_path, masked
from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.devserver.trace import HookCall, Note, Trace, readable

MAX_TEXT: Final = 16 * 1024
"""Longest text on the page, in characters. It has a link to whole bodies, and to everything."""
MAX_ITEMS: Final = 200
"""Items of a list or mapping on the page."""
MIN_SECRET: Final = 8
"""Length of the shortest header whose value is masked wherever it occurs, in characters."""

Document: TypeAlias = dict[str, Any]
Message: TypeAlias = GatewayRequest | GatewayResponse


def summary(trace: Trace, titles: Mapping[str, str]) -> Document:
    """Return a request's entry in the list; `titles` are those of APIs, by id."""
    found = {
        "number": trace.number,
        "method": trace.request.method,
        "url": trace.request.url,
        "api": titles.get(trace.api_id, trace.api_id),
        "status": None if trace.response is None else trace.response.status,
        "started": trace.started,
        "seconds": trace.seconds,
        "events": len(trace.events),
    }
    return dict(MaskingCutter(()).cut(found))


def details(trace: Trace, *, with_secrets: bool = False) -> Document:
    """Return everything about a request. Variables in tracebacks are masked in any case."""
    found = {
        "error": trace.error,
        "steps": [_step(step, with_secrets) for step in trace.steps],
        "events": [event.describe() for event in trace.events],
        "messages": [_message(*named, with_secrets) for named in messages(trace).items()],
    }
    return dict((Cutter() if with_secrets else MaskingCutter(tuple(_secrets(trace)))).cut(found))


def messages(trace: Trace) -> Mapping[str, Message]:
    """Return the messages that there were, by name."""
    found = {"request": trace.request, "sent": trace.sent, "received": trace.received, "response": trace.response}
    return {name: message for name, message in found.items() if message is not None}


class Cutter:
    """Cuts long texts, lists and mappings, and says so in their place."""

    def cut(self, value: Any) -> Any:
        """Return the value with everything in it cut."""
        if isinstance(value, str):
            text = self.text(value[:MAX_TEXT].encode(errors="backslashreplace").decode())
            return f"{text}… ({len(value):,} characters)" if len(value) > MAX_TEXT else text
        if isinstance(value, Mapping):
            shown = {self.cut(name): self.entry(name, item) for name, item in islice(value.items(), MAX_ITEMS)}
            return shown | ({"…": f"{len(value) - MAX_ITEMS:,} more"} if len(value) > MAX_ITEMS else {})
        if isinstance(value, list | tuple):
            more = [{"more": len(value) - MAX_ITEMS}] if len(value) > MAX_ITEMS else []
            return [self.cut(item) for item in value[:MAX_ITEMS]] + more
        return value

    def text(self, text: str) -> str:
        """Return a text as it is shown."""
        return text

    def entry(self, _name: str, value: Any) -> Any:
        """Return a value of a mapping as it is shown."""
        return self.cut(value)


@dataclass(frozen=True, slots=True)
class MaskingCutter(Cutter):
    """Also masks what has a secret name, and some secrets wherever they occur."""

    secrets: tuple[str, ...]

    def text(self, text: str) -> str:
        """Mask secrets."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return masked(text)

    def entry(self, name: str, value: Any) -> Any:
        """Mask the value of a secret name."""
        return MASK if isinstance(value, str) and value and is_secret(name) else self.cut(value)


def _secrets(trace: Trace) -> Iterator[str]:
    """Yield the values of headers that look secret."""
    for message in messages(trace).values():
        for name, values in message.headers.items():
            if is_secret(name):
                yield from (value for value in values if len(value) >= MIN_SECRET)


def _step(step: HookCall | Note, with_secrets: bool) -> Document:
    described = step.describe()
    if isinstance(step, HookCall) and not with_secrets:
        for change in described["changes"]:
            if is_secret_path(change["path"]):
                change.update({side: MASK for side in ("before", "after") if change[side] is not None})
    return described


def _message(name: str, message: Message, with_secrets: bool) -> Document:
    pairs = [(header, value) for header, values in message.headers.items() for value in values]
    if isinstance(message, GatewayRequest):
        first_line = f"{message.method} {message.url}"
        pairs.insert(0, ("Host", message.host))
    else:
        first_line = str(message.status)
    return {
        "name": name,
        "first_line": first_line,
        "headers": [
            {"name": header, "value": MASK if is_secret(header) and not with_secrets else value}
            for header, value in pairs
        ],
        "body": readable(message.body[:MAX_TEXT])[:MAX_TEXT],
        "size": len(message.body),
        "is_cut": len(message.body) > MAX_TEXT,
    }
