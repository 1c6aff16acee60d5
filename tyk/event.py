"""An event of the gateway, read from the JSON of a `DispatchEvent` call.

Every JSON object in it is a dict whose keys are attributes as well: `event.message.Type` is
`event.message["Type"]`. A key that is also a method of dict (`items`, `keys`) is reached as a mapping only.
"""

import json
from typing import Any, Final

from tyk.errors import EventPayloadError

__all__ = ["TykEvent"]

TRIGGERED_KEY: Final = "triggered"
"""The member that only events triggered by plugins have."""


class AttributeDict(dict[str, Any]):
    """A dict whose keys can be read, written and deleted as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of the key `name`."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {_listed(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the key `name`."""
        self[name] = value

    def __delattr__(self, name: str) -> None:
        """Delete the key `name`."""
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {_listed(self)}") from None


class EventMessage(AttributeDict):
    """What happened."""

    Type: str
    """The event's name, e.g. "AuthFailure"."""
    Meta: Any
    """Usually with `Message`, `Path`, `Origin`, `Key` and `OriginatingRequest` (base64 of the HTTP request)."""
    TimeStamp: str
    """As Go prints a time; may end in `m=+12.3`."""


class TykEvent(AttributeDict):
    """The first argument of an `@Event` handler."""

    message: EventMessage
    """What happened."""
    handler_name: str
    """The handler's name in the API definition."""
    spec: AttributeDict
    """The API the event belongs to: `APIID`, `OrgID`."""
    triggered: AttributeDict
    """Only in events triggered by plugins: `id`, `bundle`, and `depth`, the number of such events that led to it."""

    @classmethod
    def from_json(cls, payload: str | bytes) -> "TykEvent":
        """Read an event's payload.

        Raises EventPayloadError if it is not JSON, or not the object that the gateway sends.
        """
        event = cls(_parse(payload))
        if not isinstance(event.get("handler_name"), str):
            raise EventPayloadError('the event payload has no "handler_name", or it is not a string')
        event["message"] = EventMessage(_member(event, "message"))
        event["spec"] = AttributeDict(_member(event, "spec"))
        return event


def _parse(payload: str | bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(payload, object_hook=AttributeDict)
    except (ValueError, RecursionError) as error:
        raise EventPayloadError(f"the event payload is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise EventPayloadError(f"the event payload is a JSON object, not {type(parsed).__name__}")
    return parsed


def _member(event: dict[str, Any], name: str) -> dict[str, Any]:
    member = event.get(name)
    if member is None:
        return {}
    if not isinstance(member, dict):
        raise EventPayloadError(f'"{name}" of the event payload is a JSON object, not {type(member).__name__}')
    return member


def _listed(keys: dict[str, Any]) -> str:
    return ", ".join(sorted(keys)) or "nothing"
