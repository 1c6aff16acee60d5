"""Keys and their sessions, quotas and rates, and the policies that sessions name. All of it is in memory."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tyk.proto.coprocess_session_state_pb2 import SessionState
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.identity.sessions import session_of

Clock = Callable[[], float]
"""Seconds since 1970."""


class Policy(msgspec.Struct):
    """A policy, with the fields that hooks can see."""

    rate: float = 0
    per: float = 0
    quota_max: int = 0
    quota_renewal_rate: int = 0
    access_rights: dict[str, Any] = {}


class PolicyError(Exception):
    """A session names policies that cannot be applied."""


@dataclass(slots=True)
class _Stored:
    session: SessionState
    expires_at: float | None


@dataclass(slots=True)
class _Counter:
    count: int = 0
    expires_at: float | None = None


@dataclass(slots=True)
class Keys:
    """What the gateway knows about clients."""

    policies: Mapping[str, Policy] = field(default_factory=dict)
    clock: Clock = time.time
    _sessions: dict[str, _Stored] = field(default_factory=dict)
    _counters: dict[str, _Counter] = field(default_factory=dict)

    def find(self, key: str) -> SessionState | None:
        """Return a copy of the session of a key, or None."""
        stored = self._sessions.get(key)
        if stored is None or (stored.expires_at is not None and stored.expires_at <= self.clock()):
            return None
        session = SessionState()
        session.CopyFrom(stored.session)
        session.key_id = key
        return session

    def store(self, key: str, session: SessionState) -> None:
        """Keep a session for its lifetime; 0: for ever."""
        copy = SessionState()
        copy.CopyFrom(session)
        lifetime = session.session_lifetime
        self._sessions[key] = _Stored(copy, self.clock() + lifetime if lifetime > 0 else None)

    def all(self) -> dict[str, SessionState]:
        """Return copies of all sessions, by their keys."""
        found = ((key, self.find(key)) for key in list(self._sessions))
        return {key: session for key, session in found if session is not None}

    def apply_policies(self, session: SessionState) -> None:
        """Apply the policies that a session names. Raises PolicyError if one is unknown or grants nothing."""
        names = list(session.apply_policies) or list(filter(None, session.apply_policy_id.split(",")))
        for name in names:
            policy = self.policies.get(name)
            if policy is None:
                raise PolicyError(f"policy not found: {name!r}")
            if not policy.access_rights:
                raise PolicyError("key has no valid policies to be applied")
            session.rate, session.per = policy.rate, policy.per
            session.quota_max, session.quota_renewal_rate = policy.quota_max, policy.quota_renewal_rate
            session.ClearField("access_rights")
            granted = session_of({"access_rights": policy.access_rights}, "")
            for api_id, right in granted.access_rights.items():
                session.access_rights[api_id].CopyFrom(right)

    def count(self, key: str, session: SessionState) -> tuple[int, str] | None:
        """Count a request of a key; return status and message if it is refused. Updates what is left of the quota."""
        if session.rate > 0 and self._increment(f"rate-limit-{key}", session.per) > session.rate:
            return 429, "Rate limit exceeded"
        if session.quota_max <= 0:
            return None
        count = self._increment(f"quota-{key}", session.quota_renewal_rate)
        if count == 1:
            session.quota_renews = int(self.clock()) + session.quota_renewal_rate
        session.quota_remaining = max(session.quota_max - count, 0)
        return (403, "Quota exceeded") if count > session.quota_max else None

    def is_expired(self, session: SessionState) -> bool:
        """Whether the session is over."""
        return 0 < session.expires < self.clock()

    def _increment(self, name: str, seconds: float) -> int:
        now = self.clock()
        counter = self._counters.get(name)
        if counter is None or (counter.expires_at is not None and counter.expires_at <= now):
            counter = self._counters[name] = _Counter(0, now + seconds if seconds > 0 else None)
        counter.count += 1
        return counter.count


def read_policies(path: Path) -> dict[str, Policy]:
    """Read Tyk's policies.json: policies by their IDs. Raises DefinitionError."""
    file = JsonFile.read(path)
    return {name: file.convert(Policy, (name,)) for name in file.value}


def read_keys(path: Path, keys: Keys) -> None:
    """Read a JSON object of sessions by their keys. Raises DefinitionError."""
    file = JsonFile.read(path)
    for key in file.value:
        try:
            keys.store(key, session_of(file.convert(dict, (key,)), key))
        except ValueError as error:
            raise file.wrong((key,), str(error)) from error
