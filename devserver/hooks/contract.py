"""What the gateway asks of the place where hooks run, and what it gets back."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from tyk.proto.coprocess_object_pb2 import Event, Object


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of a traceback: where, the lines around it, and what its variables hold."""

    file: str
    line: int
    function: str
    source: tuple[tuple[int, str], ...] = ()
    """Numbers and texts of lines."""
    variables: tuple[tuple[str, str], ...] = ()
    """Names and values as text; those that look secret are masked."""
    is_plugin: bool = False
    """Whether the file belongs to the bundle."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a hook did not run, or failed."""

    status: str
    """As the broker reports it: NOT_FOUND, HOOK_FAILED, EXPIRED ..."""
    message: str
    exception: str = ""
    """Class and text of the exception; empty without one."""
    frames: tuple[SourceFrame, ...] = ()
    """Outermost first, from the plugin's first frame on."""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Printed:
    """A line that a hook printed, logged, or wrote with `TykGateway.log`."""

    source: str
    """`stdout`, `stderr`, or a level of the log."""
    text: str


@dataclass(frozen=True, slots=True)
class Triggered:
    """An event that a hook triggered."""

    name: str
    payload: str
    document: str = ""
    """What its handlers receive."""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What came of one call: an object or a problem, and what happened meanwhile."""

    object: Object | None = None
    problem: Problem | None = None
    printed: tuple[Printed, ...] = ()
    triggered: tuple[Triggered, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadedBundles:
    """The bundles that were loaded, and what is wrong with them."""

    bundles: tuple[dict[str, Any], ...] = ()
    """As `tykpy hooks --json` describes them."""
    problems: tuple[Problem, ...] = ()
    printed: tuple[Printed, ...] = field(default=())
    """What the bundles printed while they were imported."""


class Hooks(Protocol):
    """Runs hooks. Its methods belong to one event loop."""

    async def call(self, sent: Object) -> HookAnswer:
        """Run the hook that the object names."""

    async def send_event(self, event: Event) -> HookAnswer:
        """Run an event handler."""

    async def close(self) -> None:
        """End everything that was started."""
