"""Errors for plugin authors: each says what was written, and what to write instead."""


class TykError(Exception):
    """Root of everything raised by `tyk`."""


class HookOptionError(TykError, ValueError):
    """A decorator got an option, or a value, that it does not take."""

    def __init__(self, decorator: str, message: str) -> None:
        """Say `message` about `@decorator`."""
        super().__init__(f"@{decorator}: {message}")
        self.decorator = decorator


class NotAHookError(TykError, TypeError):
    """A decorator was put on something that cannot be a hook."""

    def __init__(self, decorator: str, message: str) -> None:
        """Say `message` about what `@decorator` decorates."""
        super().__init__(f"@{decorator} {message}")
        self.decorator = decorator


class NoCallError(TykError, RuntimeError):
    """`tyk.current()` was called where no hook runs."""

    def __init__(self) -> None:
        """Say what to do instead."""
        super().__init__(
            "no hook runs here: call tyk.current() in a hook. A thread that a hook starts finds the call if it runs in"
            " a copy of the hook's context (asyncio.to_thread, contextvars.copy_context().run)"
        )


class StoreUnavailableError(TykError):
    """The store does not work: it is down, slow or full. The worker's log says more."""


class StoreValueError(TykError, ValueError):
    """A stored value is not what was asked for: no integer, or no JSON."""


class CacheValueError(TykError, TypeError):
    """A function with `@cache(shared=True)` got or returned what JSON cannot carry."""

    def __init__(self, what: str, reason: str) -> None:
        """Say why `what` cannot be shared."""
        super().__init__(f"{what} cannot be shared with other workers (@cache(shared=True)): {reason}")


class EventPayloadError(TykError, ValueError):
    """An event's payload is not the JSON object that the gateway sends."""


class MetricError(TykError, ValueError):
    """A metric has a name, labels or buckets that it cannot have, or is used without its labels."""
