"""The messages between `tykpy dev` and the process that runs its hooks: msgpack, each after its length."""

import struct
from typing import Final, TypeAlias

import msgspec

from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles
from tykpy.ipc.frame import Kind

LENGTH: Final = struct.Struct("!I")


class HookSetup(msgspec.Struct, tag=True, frozen=True):
    """The first message: what the process needs to know."""

    sources: list[str]
    folder: str
    """For what is unpacked and stored."""
    redis: str = ""
    debugpy: int = 0
    """Port for a debugger; 0: none."""


class RunHook(msgspec.Struct, tag=True, frozen=True):
    """Run a hook on a serialized object, or event handlers on an event."""

    call: int
    kind: Kind
    body: bytes
    seconds: float = 0.0
    """Time limit; 0: none."""


class Reload(msgspec.Struct, tag=True, frozen=True):
    """Load the bundles again."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The bundles are loaded."""

    loaded: LoadedBundles


class Paused(msgspec.Struct, tag=True, frozen=True):
    """A debugger has stopped a call, which has no deadline from now on."""

    call: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """A call has ended; `body` is the object, which `answer` leaves out."""

    call: int
    answer: HookAnswer
    body: bytes | None = None


ToHooks: TypeAlias = HookSetup | RunHook | Reload
FromHooks: TypeAlias = Ready | Paused | Done

encode: Final = msgspec.msgpack.Encoder().encode
decode_to_hooks: Final = msgspec.msgpack.Decoder(ToHooks).decode
decode_from_hooks: Final = msgspec.msgpack.Decoder(FromHooks).decode


def framed(message: ToHooks | FromHooks) -> bytes:
    """Return a message with its length."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
