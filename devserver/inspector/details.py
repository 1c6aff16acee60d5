"""What the page shows of a request, as JSON: bounded, and with secrets masked unless they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from tykpy.devserver.hooks.masking import NOTHING_MASKED, Masker
from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.devserver.trace import HookCall, Note, Trace, readable

MAX_TEXT: Final = 16 * 1024
"""Longest text on the page, in characters. It has a link to whole bodies, and to everything."""
MAX_ITEMS: Final = 200
"""Items of a list or mapping on the page."""

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
    return dict(Cutter(Masker()).cut(found))


def details(trace: Trace, *, with_secrets: bool = False) -> Document:
    """Return everything about a request. Variables in tracebacks are masked in any case."""
    masker = NOTHING_MASKED if with_secrets else Masker(trace.secrets)
    found = {
        "error": trace.error,
        "steps": [_step(step, masker) for step in trace.steps],
        "events": [event.describe() for event in trace.events],
        "messages": [_message(*named, masker) for named in messages(trace).items()],
    }
    return dict(Cutter(masker).cut(found))


def messages(trace: Trace) -> Mapping[str, Message]:
    """Return the messages that there were, by name."""
    found = {"request": trace.request, "sent": trace.sent, "received": trace.received, "response": trace.response}
    return {name: message for name, message in found.items() if message is not None}


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts long texts, lists and mappings, and says so in their place; secrets in texts are masked."""

    masker: Masker

    def cut(self, value: Any) -> Any:
        """Return the value with everything in it cut."""
        if isinstance(value, str):
            text = self.masker.text(value[:MAX_TEXT].encode(errors="backslashreplace").decode())
            return f"{text}… ({len(value):,} characters)" if len(value) > MAX_TEXT else text
        if isinstance(value, Mapping):
            shown = {self.cut(name): self._entry(name, item) for name, item in islice(value.items(), MAX_ITEMS)}
            return shown | ({"…": f"{len(value) - MAX_ITEMS:,} more"} if len(value) > MAX_ITEMS else {})
        if isinstance(value, list | tuple):
            more = [{"more": len(value) - MAX_ITEMS}] if len(value) > MAX_ITEMS else []
            return [self.cut(item) for item in value[:MAX_ITEMS]] + more
        return value

    def _entry(self, name: str, value: Any) -> Any:
        if name == "printed":
            return Cutter(self.masker.for_prints()).cut(value)
        return self.cut(self.masker.value(name, value) if isinstance(value, str) else value)


def _step(step: HookCall | Note, masker: Masker) -> Document:
    described = step.describe()
    for change in described.get("changes", ()):
        for side in ("before", "after"):
            if change[side] is not None:
                change[side] = masker.value_at(change["path"], change[side])
    return described


def _message(name: str, message: Message, masker: Masker) -> Document:
    pairs = [(header, value) for header, values in message.headers.items() for value in values]
    if isinstance(message, GatewayRequest):
        first_line = f"{message.method} {message.url}"
        pairs.insert(0, ("Host", message.host))
    else:
        first_line = str(message.status)
    return {
        "name": name,
        "first_line": first_line,
        "headers": [{"name": header, "value": masker.value(header, value)} for header, value in pairs],
        "body": readable(message.body[:MAX_TEXT])[:MAX_TEXT],
        "size": len(message.body),
        "is_cut": len(message.body) > MAX_TEXT,
    }
