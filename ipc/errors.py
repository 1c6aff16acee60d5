"""What can go wrong between broker and worker, each error with its numbers."""


class IpcError(Exception):
    """Root of this folder's errors."""


class OptionsError(IpcError, ValueError):
    """Channel sizes that cannot work together."""


class SegmentError(IpcError):
    """A shared segment could not be created, or is not the one that was promised."""


class RingCorruptError(IpcError):
    """The peer's ring says something impossible; nothing that follows in it can be trusted."""

    def __init__(self, reason: str, **numbers: int) -> None:
        details = ", ".join(f"{name} {number}" for name, number in numbers.items())
        super().__init__(f"{reason} ({details})" if details else reason)
        self.reason = reason
        self.numbers = numbers


class RingFullError(IpcError):
    """More is in flight than the credits allow: a bug of the sender, never an effect of load."""

    def __init__(self, needed: int, free: int, capacity: int) -> None:
        super().__init__(f"a record of {needed} bytes into {free} free of {capacity}")
        self.needed = needed
        self.free = free
        self.capacity = capacity


class CreditError(IpcError):
    """The broker sends more requests than `ChannelOptions.credits`."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests in flight already, the ring has room for no more")
        self.limit = limit


class MessageTooLargeError(IpcError):
    """A message is above `max_message`."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes is above the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class SpillError(IpcError):
    """One oversize message cannot be carried (no memory or descriptors left); the channel itself is sound."""


class SpillClosedError(SpillError):
    """The other process has closed its end: it is dead, or about to be."""


class ControlClosedError(IpcError):
    """The other process is gone."""


class ControlCorruptError(IpcError):
    """The control socket carries something other than control messages."""


class ZygoteLostError(IpcError):
    """The process that forks workers has ended, or does not answer."""


class ControlFullError(IpcError):
    """The peer does not read its control messages."""

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(f"{waiting} bytes of control messages wait for a peer that does not read (limit {limit})")
        self.waiting = waiting
        self.limit = limit
