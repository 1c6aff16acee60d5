"""Messages refused for their size: each is counted, logged with its hook, and explained to its caller.

A gateway does not log them: a user sees HTTP 500, and only the broker can say why.
"""

import logging
from typing import Final

from tykpy.ipc.description import MAX_NAME
from tykpy.ipc.frame import EVENT_KINDS
from tykpy.ipc.text import bounded
from tykpy.telemetry.rate_limited_log import QuietLog

MIB: Final = 1024 * 1024
MAX_BODY: Final = 48 * MIB
"""Default for the largest body, in bytes; `max_message` then equals what README's `tyk.conf` sets for the gateway."""
GATEWAY_DEFAULT: Final = 4 * MIB
"""Largest answer that a gateway takes without `grpc_recv_max_size`, in bytes: the default of grpc-go."""
BESIDES_BODIES: Final = 4 * MIB
"""Bytes of a message other than its bodies: headers, session, spec. gRPC's default allows a whole message no more."""


def message_limit(max_body: int) -> int:
    """Return how many bytes a message may have so that bodies of `max_body` bytes pass.

    A gateway sends a body that is UTF-8 twice, as `body` and as `raw_body` (gateway/coprocess.go, BuildObject).
    """
    return 2 * max_body + BESIDES_BODIES


class SizeRefusals:
    """Counts messages that were too large, logs them once a minute per hook, and words the errors."""

    __slots__ = ("_allowed", "_log", "abandoned", "answers", "requests")

    def __init__(self, limit: int = message_limit(MAX_BODY), option: str = "--max-message") -> None:
        """`limit`: bytes that a message may have. `option`: what the user can change, for the texts."""
        self._allowed = f"{limit} ({option})"
        self._log = QuietLog(logging.getLogger("tykpy.router"))
        self.requests = 0
        self.answers = 0
        """Answers of hooks."""
        self.abandoned = 0
        """Answers whose peer stopped reading, perhaps because of their size."""

    def refuse_request(self, kind: int, hook: str, what: str) -> str:
        """Count and log a request; returns what to tell its caller.

        `kind` is an `ipc.frame.Kind`; `hook` is empty where it is not known; `what` is like "the request has 5 bytes".
        """
        self.requests += 1
        return self._explain("request", kind, hook, what)

    def refuse_answer(self, kind: int, hook: str, what: str) -> str:
        """Count and log an answer of a hook; returns what to tell the caller."""
        self.answers += 1
        return self._explain("answer", kind, hook, what)

    def note_abandoned(self, kind: int, hook: str, size: int) -> None:
        """Count and log an answer that its peer stopped reading, if its size may be the reason."""
        if size > GATEWAY_DEFAULT:
            self.abandoned += 1
            what = f"the gateway did not take an answer of {size} bytes"
            hint = "is its grpc_recv_max_size smaller? Without that it takes 4 MiB"
            self._log.log(logging.WARNING, f"abandoned {hook}", f"{_subject(kind, hook)}: {what}: {hint}")

    def _explain(self, direction: str, kind: int, hook: str, what: str) -> str:
        message = f"{_subject(kind, hook)}: {what}, and may have {self._allowed}"
        self._log.log(logging.WARNING, f"{direction} {_subject(kind, hook)}", message)
        return message


def _subject(kind: int, hook: str) -> str:
    return "an event" if kind in EVENT_KINDS else f"hook {bounded(hook, MAX_NAME) or '(unknown)'}"
