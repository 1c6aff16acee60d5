"""Keep values in Redis: return in time whatever Redis does, and reconnect once it is back."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import redis.exceptions

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
        milliseconds = math.ceil(ttl * 1000) if ttl > 0 else None
        self._ask(lambda client: _set(client, storage_key(key), value, milliseconds))

    def fetch(self, key: str) -> bytes:
        """Return the stored value, or an empty one if there is none or Redis does not answer."""
        return self._ask(lambda client: client.get(storage_key(key))) or b""

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
        if not self._breaker.allows():
            return None
        try:
            answer = self._calls.call(partial(self._run, command), self._limits.answer_s)
        except OUTAGES as error:
            self._out_of_reach(error, level)
            return None
        except redis.exceptions.RedisError as error:
            self._health.refused()
            self._refusals.failed(f"Redis at {self._address.display} refused a command: {told(self._address, error)}")
            answer = None
        except BaseException:
            # A bug of ours or of redis-py, and no outage; the breaker must not wait for ever for its one probe.
            self._breaker.let_ask()
            raise
        self._breaker.succeeded()
        self._health.works()
        self._outages.recovered(f"Redis at {self._address.display} answers again")
        return answer

    def _run(self, command: Callable[[Client], bytes | None]) -> bytes | None:
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
