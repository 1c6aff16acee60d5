"""`tyk.store`: values that all workers of a machine share, or all clients of a Redis."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec, TypeVar, overload

from tyk.errors import StoreUnavailableError, StoreValueError
from tyk.gateway import backend
from tyk.gateway.api import StoredValue, check_key, check_ttl, encode_value
from tyk.gateway.commands import Delete, Expire, Get, Increment, Set, SetIfAbsent

MAX_BATCH: Final = 1_000
"""Most keys of one batch: others wait for a store that is busy with it."""
INT64: Final = range(-(2**63), 2**63)
"""What a counter can hold."""

_T = TypeVar("_T")
_P = ParamSpec("_P")
_NO_DEFAULT: Final[Any] = object()


class Store:
    """Values by keys: those of `TykGateway.store_data`, in Redis or in the broker's SQLite file; in memory elsewhere.

    A value is bytes; a str is stored as UTF-8, a number as its decimal text. `ttl` is in seconds, 0: for ever. Each
    method has an awaitable form whose name begins with `a`. All raise StoreUnavailableError if the store does not work,
    and TypeError or ValueError for arguments that it cannot take.
    """

    @overload
    def get(self, key: str) -> bytes | None: ...

    @overload
    def get(self, key: str, default: _T) -> bytes | _T: ...

    def get(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Return the value, or None. With a `default`, return that if there is none or the store does not work."""
        try:
            (value,) = _execute(Get((check_key(key),)))
        except StoreUnavailableError:
            if default is _NO_DEFAULT:
                raise
            return default
        if value is None:
            return None if default is _NO_DEFAULT else default
        return value

    def set(self, key: str, value: StoredValue, ttl: float = 0) -> None:
        """Keep `value` for `ttl` seconds, in place of any other."""
        _execute(Set({check_key(key): encode_value(value)}, check_ttl(ttl)))

    def set_if_absent(self, key: str, value: StoredValue, ttl: float = 0) -> bool:
        """Keep `value` unless the key has one; return whether it was kept. Of many callers, one is told True."""
        return bool(_execute(SetIfAbsent(check_key(key), encode_value(value), check_ttl(ttl))))

    def delete(self, key: str) -> bool:
        """Remove the value; return whether there was one."""
        return bool(_execute(Delete((check_key(key),))))

    def incr(self, key: str, amount: int = 1, ttl: float = 0) -> int:
        """Add `amount` to a counter and return the sum; a new one begins at 0 and lasts `ttl` seconds.

        Raises StoreValueError if the value is no integer, or the sum has more than 64 bits.
        """
        if type(amount) is not int or amount not in INT64:
            raise TypeError(f"amount is an integer of 64 bits, not {amount!r:.50}")
        return int(_execute(Increment(check_key(key), amount, check_ttl(ttl))))

    def expire(self, key: str, ttl: float) -> bool:
        """Let the value expire in `ttl` seconds, more than 0; return whether there is one."""
        if check_ttl(ttl) <= 0:
            raise ValueError(f"ttl is a number of seconds above 0, not {ttl}; delete(key) removes a value")
        return bool(_execute(Expire(check_key(key), check_ttl(ttl))))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that have one; up to 1,000 keys, not all read at the same moment."""
        asked = _batch(keys)
        values = _execute(Get(asked)) if asked else []
        return {key: value for key, value in zip(asked, values, strict=True) if value is not None}

    def set_many(self, values: Mapping[str, StoredValue], ttl: float = 0) -> None:
        """Keep up to 1,000 values; if it fails, some of them may have been kept."""
        encoded = {key: encode_value(values[key]) for key in _batch(values)}
        if encoded:
            _execute(Set(encoded, check_ttl(ttl)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove the values of up to 1,000 keys; return how many there were."""
        asked = _batch(keys)
        return int(_execute(Delete(asked))) if asked else 0

    def get_json(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Return the value decoded from JSON; None or `default` as `get` does. Raises StoreValueError if it is none."""
        value = self.get(key, default)
        if value is default or value is None:
            return None if default is _NO_DEFAULT else default
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise StoreValueError(f"the value of {key!r:.100} is no JSON: {error}") from error

    def set_json(self, key: str, value: Any, ttl: float = 0) -> None:
        """Keep `value` as JSON. Raises TypeError or ValueError for what JSON cannot carry."""
        self.set(key, json.dumps(value, allow_nan=False), ttl)

    @overload
    async def aget(self, key: str) -> bytes | None: ...

    @overload
    async def aget(self, key: str, default: _T) -> bytes | _T: ...

    async def aget(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Await `get`."""
        return await _in_thread(self.get, key, default)

    async def aset(self, key: str, value: StoredValue, ttl: float = 0) -> None:
        """Await `set`."""
        await _in_thread(self.set, key, value, ttl)

    async def aset_if_absent(self, key: str, value: StoredValue, ttl: float = 0) -> bool:
        """Await `set_if_absent`."""
        return await _in_thread(self.set_if_absent, key, value, ttl)

    async def adelete(self, key: str) -> bool:
        """Await `delete`."""
        return await _in_thread(self.delete, key)

    async def aincr(self, key: str, amount: int = 1, ttl: float = 0) -> int:
        """Await `incr`."""
        return await _in_thread(self.incr, key, amount, ttl)

    async def aexpire(self, key: str, ttl: float) -> bool:
        """Await `expire`."""
        return await _in_thread(self.expire, key, ttl)

    async def aget_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Await `get_many`."""
        return await _in_thread(self.get_many, keys)

    async def aset_many(self, values: Mapping[str, StoredValue], ttl: float = 0) -> None:
        """Await `set_many`."""
        await _in_thread(self.set_many, values, ttl)

    async def adelete_many(self, keys: Iterable[str]) -> int:
        """Await `delete_many`."""
        return await _in_thread(self.delete_many, keys)

    async def aget_json(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Await `get_json`."""
        return await _in_thread(self.get_json, key, default)

    async def aset_json(self, key: str, value: Any, ttl: float = 0) -> None:
        """Await `set_json`."""
        await _in_thread(self.set_json, key, value, ttl)


def _execute(command: Get | Set | SetIfAbsent | Delete | Increment | Expire) -> Any:
    return backend.storage().execute(command)


def _batch(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise TypeError("keys are several: a list of str, not one str")
    asked = tuple(dict.fromkeys(map(check_key, keys)))
    if len(asked) > MAX_BATCH:
        raise ValueError(f"a batch of {len(asked)} keys: split it, {MAX_BATCH} are the limit")
    return asked


async def _in_thread(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    import asyncio  # most of what uses `tyk` needs none

    return await asyncio.to_thread(function, *arguments, **options)


store: Final = Store()
"""The store of the worker that this runs in."""
