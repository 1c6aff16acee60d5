"""Traces a storage: one span per operation, a child of the hook's. Import it only where tracing is on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    use_span,
)

from tyk.gateway.commands import Command
from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import Health

_UNSAMPLED: Final = NonRecordingSpan(SpanContext(trace_id=1, span_id=1, is_remote=False))


class TracedStorage:
    """A storage whose operations in traced hooks have spans. Keys are not recorded: they may be secrets."""

    def __init__(self, storage: SharedStorage, system: str, health: Health, tracer: Tracer) -> None:
        """`system`: its kind, e.g. "redis". `health` tells whether an operation has failed."""
        self._storage = storage
        self._health = health
        self._tracer = tracer
        self._attributes = {"db.system.name": system}

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""
        with self._span("store_data"):
            self._storage.store(key, value, ttl)

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""
        with self._span("get_data"):
            return self._storage.fetch(key)

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store`."""
        with self._span(f"store {command.name}"):
            return self._storage.execute(command)

    def check(self) -> None:
        """Use it, so that a storage that cannot be used is known before a plugin needs it."""
        with use_span(_UNSAMPLED):  # a plugin's instrumentation would begin a trace
            self._storage.check()

    def close(self) -> None:
        """Close files and connections."""
        self._storage.close()

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        if not get_current_span().is_recording():
            yield
            return
        errors = self._health.errors
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, attributes=self._attributes, record_exception=False
        ) as span:
            yield
            if self._health.is_down or self._health.errors > errors:
                span.set_status(StatusCode.ERROR, "the storage has failed, see the log")
