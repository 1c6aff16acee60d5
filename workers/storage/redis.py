"""Keep values in Redis: return in time whatever Redis does, and reconnect once it is back."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import redis.exceptions

from tyk.errors import StoreUnavailableError
from tyk.gateway.backend import no_counter
from tyk.gateway.commands import Command, Delete, Expire, Get, Increment, Set, SetIfAbsent
from tykpy.redisclient.address import RedisAddress
from tykpy.redisclient.client import OUTAGES, Client, Connected, connect, told
from tykpy.workers.storage.contract import storage_key
from tykpy.workers.storage.failures import Breaker, FailureLog, Health
from tykpy.workers.storage.timelimit import TimeLimitedCalls

ANSWER_S: Final = 0.75
"""Seconds after which a call ends, with or without an answer; below 1 s, with time to spare for a loaded machine."""

SOCKET_S: Final = 0.6
"""Timeout of each step of a call: below `ANSWER_S`, so that the logged error is mostly the step's own."""

_KEY: Final = "redis"
_AnswerT = TypeVar("_AnswerT")
_INCREMENT_NEW: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], 0, 'PX', ARGV[2]) end
return redis.call('INCRBY', KEYS[1], ARGV[1])
"""
"""INCRBY that gives a new counter its time to live, as one step: a counter without one would stay for ever."""
_NO_COUNTER: Final = ("not an integer", "would overflow")
"""Parts of Redis's errors for INCRBY."""

FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Times in seconds."""

    answer_s: float = ANSWER_S
    socket_s: float = SOCKET_S
    first_backoff_s: float = FIRST_BACKOFF_S
    longest_backoff_s: float = LONGEST_BACKOFF_S


class RedisStorage:
    """A storage in Redis, shared with all its other clients, such as gateways."""

    def __init__(
        self,
        address: RedisAddress,
        limits: RedisLimits = RedisLimits(),
        clock: Callable[[], float] = time.monotonic,
        health: Health | None = None,
    ) -> None:
        """Remember where Redis is; the first call connects."""
        self._health = health or Health()
        self._address = address
        self._limits = limits
        self._breaker = Breaker(limits.first_backoff_s, limits.longest_backoff_s, clock)
        self._outages = FailureLog(clock)
        self._refusals = FailureLog(clock)
        self._calls = TimeLimitedCalls("tykpy-redis")
        self._connected: dict[str, Connected] = {}
        """The client, once connected: at most one entry."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, or for ever if `ttl` is 0 or less."""
        milliseconds = _milliseconds(ttl) if ttl > 0 else None
        self._ask(lambda client: _set(client, storage_key(key), value, milliseconds))

    def fetch(self, key: str) -> bytes:
        """Return the stored value, or an empty one if there is none or Redis does not answer."""
        return self._ask(lambda client: client.get(storage_key(key))) or b""

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store`. Raises StoreUnavailableError, StoreValueError."""
        lines = _lines_of(command)
        answers = self._call(lambda client: _send(client, lines), logging.ERROR)
        match command:
            case Get():
                return answers
            case Set():
                return None
            case Delete():
                return sum(answers)
            case Increment(key):
                if answers[0] is None:
                    raise no_counter(key)
                return answers[0]
            case SetIfAbsent() | Expire():
                return bool(answers[0])

    def check(self) -> None:
        """Warn if Redis does not answer."""
        self._ask(lambda client: client.get(storage_key("")), logging.WARNING)

    def close(self) -> None:
        """Close the connections and end the threads."""
        self._calls.close()
        connected = self._connected.pop(_KEY, None)
        if connected is not None:
            connected.close()

    def _ask(self, command: Callable[[Client], bytes | None], level: int = logging.ERROR) -> bytes | None:
        try:
            return self._call(command, level)
        except StoreUnavailableError:
            return None

    def _call(self, command: Callable[[Client], _AnswerT], level: int) -> _AnswerT:
        if not self._breaker.allows():
            raise StoreUnavailableError(f"Redis at {self._address.display} does not answer")
        try:
            answer = self._calls.call(partial(self._run, command), self._limits.answer_s)
        except OUTAGES as error:
            self._out_of_reach(error, level)
            raise StoreUnavailableError(f"Redis at {self._address.display} does not answer") from error
        except redis.exceptions.RedisError as error:
            text = f"Redis at {self._address.display} refused a command: {told(self._address, error)}"
            self._health.refused()
            self._refusals.failed(text)
            self._answered()
            raise StoreUnavailableError(text) from error
        except BaseException:
            # A bug of ours or of redis-py, and no outage; the breaker must not wait for ever for its one probe.
            self._breaker.let_ask()
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self._breaker.succeeded()
        self._health.works()
        self._outages.recovered(f"Redis at {self._address.display} answers again")

    def _run(self, command: Callable[[Client], _AnswerT]) -> _AnswerT:
        """Run in one of the time-limited threads: the first use connects, which may take long too."""
        return command((self._connected.get(_KEY) or self._connect()).client)

    def _connect(self) -> Connected:
        connected = connect(self._address, self._limits.socket_s)
        kept = self._connected.setdefault(_KEY, connected)
        if kept is not connected:
            connected.close()  # another thread was faster: threads do not wait for each other's connections
        return kept

    def _out_of_reach(self, error: Exception, level: int) -> None:
        backoff_s = self._breaker.failed()
        self._health.fails()
        self._outages.failed(
            f"Redis at {self._address.display} does not answer: {told(self._address, error)}; until it does, get_data"
            f" answers empty and store_data is lost (next try in {backoff_s:.2g} s)",
            level,
        )


def _set(client: Client, key: bytes, value: bytes, milliseconds: int | None) -> None:
    client.set(key, value, px=milliseconds)


def _lines_of(command: Command) -> list[tuple[Any, ...]]:
    """Return the commands to send to Redis."""
    match command:
        case Get(keys):
            return [("GET", storage_key(key)) for key in keys]
        case Set(values, ttl):
            return [("SET", storage_key(key), value, *_px(ttl)) for key, value in values.items()]
        case SetIfAbsent(key, value, ttl):
            return [("SET", storage_key(key), value, "NX", *_px(ttl))]
        case Delete(keys):
            return [("DEL", storage_key(key)) for key in keys]
        case Increment(key, amount, ttl):
            if ttl > 0:
                return [("EVAL", _INCREMENT_NEW, 1, storage_key(key), amount, _milliseconds(ttl))]
            return [("INCRBY", storage_key(key), amount)]
        case Expire(key, ttl):
            return [("PEXPIRE", storage_key(key), _milliseconds(ttl))]


def _px(ttl: float) -> tuple[Any, ...]:
    return ("PX", _milliseconds(ttl)) if ttl > 0 else ()


def _milliseconds(ttl: float) -> int:
    return math.ceil(ttl * 1000)


def _send(client: Client, lines: list[tuple[Any, ...]]) -> list[Any]:
    """Send commands together and return their answers; that of an INCRBY of something else is None."""
    if len(lines) > 1:
        pipeline = client.pipeline(transaction=False)
        for line in lines:
            pipeline.execute_command(*line)
        return pipeline.execute()
    try:
        return [client.execute_command(*lines[0])]
    except redis.exceptions.ResponseError as error:
        if any(part in str(error) for part in _NO_COUNTER):
            return [None]
        raise
