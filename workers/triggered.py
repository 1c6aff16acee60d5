"""An event that a plugin triggers: where it comes from, and the JSON document that it travels as.

The document has the form in which a gateway sends its events, and one member more, `triggered`.
"""

import json
import os
import time
from typing import Any, Final, NamedTuple, NoReturn

from tyk.event import TRIGGERED_KEY
from tykpy.bundles.current_hook import RUNNING

CARRIED_SPEC: Final = ("APIID", "OrgID", "bundle_hash")
"""What an event keeps of the spec of the hook that triggers it."""
MAX_SPEC_CHARACTERS: Final = 1_024
"""Of each; real ones have 32."""
DEEPEST: Final = 1_000
"""Deeper than the broker lets any event go: an event that claims more (a gateway's may say anything) counts as this."""

_ID_BYTES: Final = 12
_NS_PER_S: Final = 1_000_000_000


class TriggeredEvent(NamedTuple):
    """One event, as it is kept until there is time to make its document."""

    name: str
    payload: str
    time_ns: int
    """Since 1970."""
    bundle: str
    """The bundle of the hook that triggered it; empty where no hook did."""
    spec: dict[str, str]
    depth: int
    """How many handlers of triggered events led to it."""

    @classmethod
    def here(cls, name: str, payload: str) -> "TriggeredEvent":
        """Note an event with the hook that runs here as its origin."""
        running = RUNNING.get()
        if running is None:
            return cls(name, payload, time.time_ns(), "", {}, 0)
        hook, subject = running
        spec = {key: str(subject.spec[key])[:MAX_SPEC_CHARACTERS] for key in CARRIED_SPEC if key in subject.spec}
        return cls(name, payload, time.time_ns(), hook.bundle, spec, _depth_below(subject))

    def message(self) -> dict[str, Any]:
        """Return what the broker is told: the document, and what it reads of it without decoding it."""
        identity = os.urandom(_ID_BYTES).hex()
        document = {
            "message": {"Type": self.name, "Meta": _meta(self.payload), "TimeStamp": go_time(self.time_ns)},
            "handler_name": self.name,
            "spec": self.spec,
            TRIGGERED_KEY: {"id": identity, "bundle": self.bundle, "depth": self.depth},
        }
        return {"name": self.name, "id": identity, "depth": self.depth, "document": json.dumps(document)}


def go_time(time_ns: int) -> str:
    """Return a time as Go prints it, which is how a gateway's events have it."""
    seconds, nanoseconds = divmod(time_ns, _NS_PER_S)
    return time.strftime(f"%Y-%m-%d %H:%M:%S.{nanoseconds:09d} +0000 UTC", time.gmtime(seconds))


def _depth_below(subject: Any) -> int:
    """Return the depth of what is triggered while `subject` is handled: an object is no event, and counts as none."""
    origin = subject.get(TRIGGERED_KEY) if isinstance(subject, dict) else None
    depth = origin.get("depth") if isinstance(origin, dict) else None
    return min(depth, DEEPEST) + 1 if isinstance(depth, int) and depth >= 0 else 0


def _meta(payload: str) -> Any:
    """Return the payload as `Meta`: the object or list that it is the JSON of, else the text itself."""
    if not payload.lstrip().startswith(("{", "[")):
        return payload
    try:
        return json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return payload


def _refuse_constant(name: str) -> NoReturn:
    # Python reads and writes NaN and Infinity, and no other JSON reader takes them.
    raise ValueError(f"{name} is not JSON")
