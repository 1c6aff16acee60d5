"""`tyk.cache`: keep what a function returns, in a worker or, for all workers of a machine, in the store."""

import functools
import hashlib
import inspect
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from threading import RLock, get_ident
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from tyk import call
from tyk.errors import CacheValueError, HookOptionError, StoreUnavailableError
from tyk.gateway import backend
from tyk.storage import store

DEFAULT_SIZE: Final = 1024
"""Values of one function that a worker keeps."""
MAX_SHARED: Final = 1024 * 1024
"""Largest value in the store, in bytes of JSON."""
CLAIM_SECONDS: Final = 2.0
"""How long a worker lets another one run a call before it runs it as well: that one may have been killed."""
FIRST_PAUSE: Final = 0.002
MAX_PAUSE: Final = 0.05
"""Seconds between two looks at what the other worker does, which grow from one to the other."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R_co = TypeVar("_R_co", covariant=True)
_MISSING: Final[Any] = object()
_FAILED: Final[Any] = object()
_RUNNING: Final[Any] = object()


class CacheInfo(NamedTuple):
    """What a cache did in this process."""

    hits: int
    misses: int
    errors: int
    """Uses of a store that did not work: each was a miss, or a value that was not kept."""
    maxsize: int | None
    currsize: int | None
    """None for a shared cache: the store does not count."""


class CachedFunction(Protocol[_P, _R_co]):
    """A function whose results are kept."""

    @property
    def __wrapped__(self) -> Callable[_P, _R_co]:
        """The function itself."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Return the kept result, or that of a new call."""

    def cache_info(self) -> CacheInfo:
        """Return what the cache did in this process."""

    def cache_clear(self) -> None:
        """Forget all results; a shared cache does so for all workers. Raises StoreUnavailableError."""


@overload
def cache(function: Callable[_P, _T], /) -> CachedFunction[_P, _T]: ...


@overload
def cache(
    *, ttl: float | None = None, maxsize: int | None = None, single_flight: bool = True, shared: bool = False
) -> Callable[[Callable[_P, _T]], CachedFunction[_P, _T]]: ...


def cache(
    function: Any = None,
    /,
    *,
    ttl: float | None = None,
    maxsize: int | None = None,
    single_flight: bool = True,
    shared: bool = False,
) -> Any:
    """Keep the results of a function, `def` or `async def`, by its arguments; exceptions are not kept.

    `ttl`: seconds that a result is kept; None: until there is no room. `maxsize`: how many of them a worker keeps
    (default 1024); those that were not used for longest go first. Arguments are hashable. Callers share one result:
    they must not change it.

    `single_flight`: of several calls of the same arguments at the same time one runs, and the others wait for its
    result; if it fails, each of them runs. With `shared=True` one runs in all workers, which wait 2 s for each other.

    `shared=True` keeps results in `tyk.store` for all workers, and needs a `ttl`. Arguments and results are what JSON
    can carry; for another result the call raises CacheValueError. A store that does not work is a miss.

    Raises HookOptionError for an option that it cannot take.
    """
    _check_options(ttl, maxsize, single_flight, shared)

    def wrap(wrapped: Callable[..., Any]) -> Any:
        if not callable(wrapped) or inspect.isgeneratorfunction(wrapped) or inspect.isasyncgenfunction(wrapped):
            raise HookOptionError("cache", f"is for functions that return their result, which {wrapped!r} does not")
        place = _Shared(wrapped, cast(float, ttl)) if shared else _Memory(ttl, maxsize or DEFAULT_SIZE)
        return _wrapped(wrapped, place, _Flights() if single_flight else None)

    return wrap if function is None else wrap(function)


def _check_options(ttl: object, maxsize: object, single_flight: object, shared: object) -> None:
    if ttl is not None and (type(ttl) not in (int, float) or not 0 < cast(float, ttl) < math.inf):
        raise HookOptionError("cache", f"ttl is a number of seconds above 0, or None; got {ttl!r}")
    if maxsize is not None and (type(maxsize) is not int or maxsize < 1):
        raise HookOptionError("cache", f"maxsize is a whole number above 0; got {maxsize!r}")
    for name, flag in (("single_flight", single_flight), ("shared", shared)):
        if not isinstance(flag, bool):
            raise HookOptionError("cache", f"{name} is True or False; got {flag!r}")
    if shared and ttl is None:
        raise HookOptionError("cache", "shared=True needs a ttl: the store has no maxsize")
    if shared and maxsize is not None:
        raise HookOptionError("cache", "maxsize is for a worker's own cache: with shared=True the ttl limits its size")


class _Memory:
    """Results in this process; they are dropped when a test installs another clock."""

    def __init__(self, ttl: float | None, maxsize: int) -> None:
        self._clock = backend.current().clock
        self._ttl = math.inf if ttl is None else ttl
        self._maxsize = maxsize
        self._results: OrderedDict[Any, tuple[Any, float]] = OrderedDict()
        """Results and when they expire, those used last at the end."""
        self._lock = RLock()  # a finalizer may use the cache in the thread that does
        self._hits = self._misses = 0
        self._epoch = 0

    def key(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Return the key of a call. Types count: 1 and True are different arguments."""
        named = tuple(sorted(options.items()))
        types = tuple(map(type, arguments)), tuple(type(value) for _, value in named)
        return arguments, named, types

    def find(self, key: Any, counts: bool = True) -> tuple[Any, Any]:
        """Return the result, or _MISSING, and the epoch to keep a new one with."""
        with self._lock:
            self._follow_clock()
            result, expires = self._results.get(key, (_MISSING, 0.0))
            if result is not _MISSING:
                if self._clock() < expires:
                    self._results.move_to_end(key)
                    self._hits += counts
                    return result, self._epoch
                del self._results[key]
            self._misses += counts
            return _MISSING, self._epoch

    def look(self, key: Any, epoch: Any) -> Any:
        """Return the result if there is one by now, or _MISSING."""
        return self.find(key, counts=False)[0]

    def leave(self, key: Any) -> None:
        """Do nothing: no other worker waits for a result."""

    def keep(self, key: Any, result: Any, epoch: Any) -> Any:
        """Keep a result, unless the cache was cleared since; return what callers get."""
        with self._lock:
            if epoch == self._epoch:
                self._results[key] = result, self._clock() + self._ttl
                self._results.move_to_end(key)
                while len(self._results) > self._maxsize:
                    self._results.popitem(last=False)
        return result

    def clear(self) -> None:
        with self._lock:
            self._results.clear()
            self._epoch += 1
            self._hits = self._misses = 0

    def info(self) -> CacheInfo:
        with self._lock:
            self._follow_clock()
            return CacheInfo(self._hits, self._misses, 0, self._maxsize, len(self._results))

    def _follow_clock(self) -> None:
        clock = backend.current().clock
        if clock is not self._clock:
            self._clock = clock
            self.clear()


class _Shared:
    """Results in the store: the epoch that `clear` increments, a colon, and JSON."""

    def __init__(self, function: Callable[..., Any], ttl: float) -> None:
        module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        if not module or not name or "<" in name:
            text = f"shared=True is for functions of a module or class, whose names all workers know; got {function!r}"
            raise HookOptionError("cache", text)
        self._arguments, self._result = f"the arguments of {name}", f"the result of {name}"
        self._prefix = f"cache:{module}.{name}:"
        self._epoch_key = f"{self._prefix}epoch"
        self._ttl = ttl
        self._lock = RLock()
        self._clock = backend.current().clock
        """The clock in use: counts start over when a test installs another one."""
        self._hits = self._misses = self._errors = 0
        self._claims: dict[Any, float] = {}
        """When the claims of this worker expire (`time.monotonic`), by the keys of the calls that it runs."""

    def key(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Return the key of a call. Raises CacheValueError for arguments that JSON cannot carry."""
        try:
            encoded = json.dumps([arguments, options], sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise CacheValueError(self._arguments, str(error)) from error
        return self._prefix + hashlib.sha256(encoded.encode("utf-8", "surrogatepass")).hexdigest()

    def find(self, key: Any, counts: bool = True) -> tuple[Any, Any]:
        """Return the result, or _MISSING, and the epoch to keep a new one with; None: the store does not work."""
        try:
            found = store.get_many([self._epoch_key, key])
        except StoreUnavailableError:
            self._count("_errors")
            self._count("_misses", counts)
            return _MISSING, None
        epoch = found.get(self._epoch_key, b"0")
        of_epoch, _, encoded = found.get(key, b"").partition(b":")
        with suppress(ValueError):  # somebody else wrote there
            if of_epoch == epoch:
                result = json.loads(encoded)
                self._count("_hits", counts)
                return result, epoch
        self._count("_misses", counts)
        return _MISSING, epoch

    def look(self, key: Any, epoch: Any) -> Any:
        """Return the result if there is one by now, _RUNNING while another worker runs the call, or _MISSING if this
        one is to run it, which others then wait for.
        """
        if epoch is None:
            return _MISSING
        expires = time.monotonic() + CLAIM_SECONDS
        try:
            is_claimed = store.set_if_absent(f"{key}:claim", b"", CLAIM_SECONDS)
        except StoreUnavailableError:
            self._count("_errors")
            return _MISSING
        if is_claimed:
            self._claims[key] = expires
        # The worker that had the claim has kept its result before it gave the claim up.
        result, _ = self.find(key, counts=False)
        if result is not _MISSING:
            self.leave(key)
            return result
        return _MISSING if is_claimed else _RUNNING

    def leave(self, key: Any) -> None:
        """Give up the claim, unless it has expired and is perhaps another worker's."""
        expires = self._claims.pop(key, 0.0)
        if time.monotonic() < expires:
            with suppress(StoreUnavailableError):
                store.delete(f"{key}:claim")

    def keep(self, key: Any, result: Any, epoch: Any) -> Any:
        """Keep a result under the epoch of its call; return it as other callers get it. Raises CacheValueError."""
        try:
            encoded = json.dumps(result, allow_nan=False)
            decoded = json.loads(encoded)
        except (TypeError, ValueError, RecursionError) as error:
            raise CacheValueError(self._result, str(error)) from error
        if decoded != result:
            raise CacheValueError(self._result, f"JSON makes {decoded!r:.100} of {result!r:.100}")
        if len(encoded) > MAX_SHARED:
            raise CacheValueError(self._result, f"{len(encoded)} bytes of JSON, {MAX_SHARED} are the limit")
        if epoch is not None:
            try:
                store.set(key, epoch + b":" + encoded.encode(), self._ttl)
            except StoreUnavailableError:
                self._count("_errors")
        return decoded

    def clear(self) -> None:
        store.incr(self._epoch_key)
        with self._lock:
            self._hits = self._misses = self._errors = 0

    def info(self) -> CacheInfo:
        with self._lock:
            self._follow_clock()
            return CacheInfo(self._hits, self._misses, self._errors, None, None)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._follow_clock()
            setattr(self, name, getattr(self, name) + by)

    def _follow_clock(self) -> None:
        clock = backend.current().clock
        if clock is not self._clock:
            self._clock = clock
            self._hits = self._misses = self._errors = 0


class _Flight:
    """A call that others wait for."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.result: Future[Any] = Future()


class _Flights:
    """The running calls, by key."""

    def __init__(self) -> None:
        self._flights: dict[Any, _Flight] = {}
        self._lock = RLock()

    def join(self, key: Any, owner: object) -> tuple[_Flight, bool]:
        """Return the flight of a key, and whether the caller has to run it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _Flight(owner)
            return flight, True

    def end(self, key: Any, result: Any) -> None:
        """Give the result, or _FAILED, to those who wait."""
        with self._lock:
            flight = self._flights.pop(key)
        flight.result.set_result(result)


def _wrapped(function: Callable[..., Any], place: _Memory | _Shared, flights: _Flights | None) -> Any:
    if inspect.iscoroutinefunction(function):
        wrapper = _async_wrapper(function, place, flights)
    else:
        wrapper = _sync_wrapper(function, place, flights)
    vars(wrapper).update(cache_info=place.info, cache_clear=place.clear)
    return wrapper


def _sync_wrapper(function: Callable[..., Any], place: _Memory | _Shared, flights: _Flights | None) -> Any:
    @functools.wraps(function)
    def cached(*arguments: Any, **options: Any) -> Any:
        key = place.key(arguments, options)
        result, epoch = place.find(key)
        if result is not _MISSING:
            return result
        if flights is None:
            return place.keep(key, function(*arguments, **options), epoch)
        flight, is_mine = flights.join(key, get_ident())
        if not is_mine:
            result = _FAILED if flight.owner == get_ident() else _wait(flight)
            return place.keep(key, function(*arguments, **options), epoch) if result is _FAILED else result
        result = _FAILED
        try:
            found = _look(place, key, epoch)
            result = place.keep(key, function(*arguments, **options), epoch) if found is _MISSING else found
        finally:
            flights.end(key, result)
            place.leave(key)
        return result

    return cached


def _async_wrapper(function: Callable[..., Awaitable[Any]], place: _Memory | _Shared, flights: _Flights | None) -> Any:
    import asyncio  # most of what uses `tyk` needs none

    is_shared = isinstance(place, _Shared)

    async def find(key: Any) -> tuple[Any, Any]:
        return await asyncio.to_thread(place.find, key) if is_shared else place.find(key)

    async def look(key: Any, epoch: Any) -> Any:
        return await _alook(place, key, epoch) if isinstance(place, _Shared) else place.look(key, epoch)

    async def run(key: Any, epoch: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = await function(*arguments, **options)
        return await asyncio.to_thread(place.keep, key, result, epoch) if is_shared else place.keep(key, result, epoch)

    @functools.wraps(function)
    async def cached(*arguments: Any, **options: Any) -> Any:
        key = place.key(arguments, options)
        result, epoch = await find(key)
        if result is not _MISSING:
            return result
        if flights is None:
            return await run(key, epoch, arguments, options)
        task = asyncio.current_task()
        flight, is_mine = flights.join(key, task)
        if not is_mine:
            result = _FAILED
            if flight.owner is not task:
                # Shielded: cancelling one caller must not take the result from the others.
                result = await asyncio.shield(asyncio.wrap_future(flight.result))
            return await run(key, epoch, arguments, options) if result is _FAILED else result
        result = _FAILED
        try:
            found = await look(key, epoch)
            result = await run(key, epoch, arguments, options) if found is _MISSING else found
        finally:
            flights.end(key, result)
            if is_shared:
                await asyncio.to_thread(place.leave, key)
        return result

    return cached


def _look(place: _Memory | _Shared, key: Any, epoch: Any) -> Any:
    """Return the result, or _MISSING if this worker is to run the call; wait while another one runs it."""
    for pause in _pauses():
        found = place.look(key, epoch)
        if found is not _RUNNING:
            return found
        time.sleep(pause)
    return _MISSING


async def _alook(place: _Shared, key: Any, epoch: Any) -> Any:
    """Do as `_look` does, for `async def` functions."""
    import asyncio

    for pause in _pauses():
        found = await asyncio.to_thread(place.look, key, epoch)
        if found is not _RUNNING:
            return found
        await asyncio.sleep(pause)
    return _MISSING


def _pauses() -> Iterator[float]:
    """Yield growing pauses until another worker has had its time."""
    end = time.monotonic() + CLAIM_SECONDS
    pause = FIRST_PAUSE
    while time.monotonic() < end:
        yield pause
        pause = min(pause * 2, MAX_PAUSE)


def _wait(flight: _Flight) -> Any:
    """Return the result of another thread's call; _FAILED if it has none before the waiting hook's deadline."""
    waiting = call.find()
    time_left = math.inf if waiting is None else waiting.time_left
    try:
        return flight.result.result(None if math.isinf(time_left) else time_left)
    except TimeoutError:
        return _FAILED
