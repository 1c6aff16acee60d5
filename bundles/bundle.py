"""One bundle: its hooks, the chains they form, and what is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Final, NamedTuple

from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.archive import UnpackedCopy
from tykpy.bundles.files.discovery import key_of
from tykpy.bundles.files.manifest import HOOK_TYPES, ListedHook
from tykpy.bundles.hook import Hook
from tykpy.bundles.imports.importer import ImportSpace
from tykpy.ipc.description import MAX_NAME
from tykpy.ipc.text import bounded

AUTH_TYPE: Final = "CustomKeyCheck"
"""The only hook type that does not chain."""


class ChainLink(NamedTuple):
    """One hook of a chain, and whether its request's `body` stays empty."""

    hook: Hook
    raw_body_only: bool = False


class FaultyHook(NamedTuple):
    """A hook that exists, or should exist, and cannot run."""

    name: str
    hook_type: str | None
    error: BundleError
    missing: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the fault as a map that msgpack can carry."""
        return {"name": bounded(self.name, MAX_NAME), "hook_type": self.hook_type, **describe_error(self.error)}


class Chain(NamedTuple):
    """All hooks of one type, in the order they run. With an error none runs: a check could be left out."""

    links: tuple[ChainLink, ...] = ()
    error: BundleError | None = None
    is_async: bool = False
    """Whether one of its hooks is `async def`."""


@dataclass(slots=True)
class BundlePart:
    """One folder or file of code with imports of its own; most bundles have one part."""

    name: str
    root: Path
    hooks: dict[str, Hook] = field(default_factory=dict)
    faulty: dict[str, FaultyHook] = field(default_factory=dict)
    error: BundleError | None = None
    listed: tuple[ListedHook, ...] = ()
    chained: frozenset[str] = frozenset()
    """The hook types for which its manifest lists `*`: the gateway asks for the whole chain."""
    space: ImportSpace | None = None
    copy: UnpackedCopy | None = None
    """Where it is unpacked, if it is a ZIP."""
    on_start: tuple[FunctionType, ...] = ()
    on_stop: tuple[FunctionType, ...] = ()
    """What to call as a worker starts and stops, in this order."""

    def close(self) -> None:
        """Forget the part's modules."""
        if self.space is not None:
            self.space.close()

    def chain(self, hook_type: str) -> Chain:
        """Return the part's chain: the hooks that the manifest lists inside `*`, and no others.

        Without such a list: all hooks of the type, in the manifest's order, then those that it does not list, as
        defined.
        """
        if self.error is not None:
            return Chain(error=self.error)
        listed = [entry for entry in self.listed if entry.hook_type == hook_type]
        is_fixed = any(entry.in_chain for entry in listed)
        links: list[ChainLink] = []
        for entry in listed:
            if entry.disabled or entry.in_chain is not is_fixed:
                continue
            if entry.name in self.faulty:
                return Chain(error=self.faulty[entry.name].error)
            links.append(ChainLink(self.hooks[entry.name], entry.raw_body_only))
        if is_fixed or (links and hook_type == AUTH_TYPE):
            return Chain(tuple(links))
        broken = next((hook for hook in self.faulty.values() if hook.hook_type == hook_type), None)
        if broken is not None:
            return Chain(error=broken.error)
        links += [ChainLink(hook) for hook in self.hooks.values() if _belongs(hook, hook_type)]
        return Chain(tuple(links))


class Bundle:
    """The parts that one bundle hash stands for; read-only once created."""

    def __init__(
        self, name: str, hashes: Iterable[str], path: Path, parts: Iterable[BundlePart], is_complete: bool = True
    ) -> None:
        """Join the parts; the first hook of a name counts. `is_complete`: no part is missing."""
        self.name = name
        self.is_complete = is_complete
        self.hashes = tuple(hashes)
        self.path = path
        self.parts = tuple(parts)
        self.hooks: dict[str, Hook] = {}
        self.faulty: dict[str, FaultyHook] = {}
        for part in reversed(self.parts):
            self.hooks.update(part.hooks)
            self.faulty.update(part.faulty)
        self.error = next((part.error for part in self.parts if part.error is not None), None)
        self.chains = {hook_type: self._chain(hook_type) for hook_type in HOOK_TYPES.values()}

    @property
    def key(self) -> str:
        """The path as text, which identifies the bundle also in other processes."""
        return key_of(self.path)

    @property
    def has_events(self) -> bool:
        """Whether any of its hooks handles events."""
        return any(hook.shape.is_event for hook in self.hooks.values())

    @property
    def is_other_file(self) -> bool:
        """Whether it is no bundle, but a `.py` file without hooks among bundles."""
        has_code = self.hooks or self.faulty or any(part.on_start or part.on_stop for part in self.parts)
        return self.path.suffix == ".py" and self.error is None and not has_code

    @property
    def count(self) -> int:
        """The number of its hooks, faulty ones included."""
        return sum(len(part.hooks) + len(part.faulty) for part in self.parts)

    @property
    def is_sound(self) -> bool:
        """Whether everything is there and was loaded."""
        return self.is_complete and not self.is_other_file and self.error is None and not self.faulty

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        errors = [part.error for part in self.parts if part.error is not None]
        return [str(error) for error in errors] + [str(faulty.error) for faulty in self.faulty.values()]

    def describe(self) -> dict[str, Any]:
        """Return what `tykpy hooks` and the router need to know, as a map that msgpack can carry."""
        return {
            "name": self.name,
            "hashes": list(self.hashes),
            "path": self.key,
            "state": "broken" if self.error is not None else "loaded" if self.is_complete else "incomplete",
            "error": None if self.error is None else describe_error(self.error),
            "hooks": [hook.describe() for part in self.parts for hook in part.hooks.values()],
            "faulty": [faulty.describe() for part in self.parts for faulty in part.faulty.values()],
        }

    def close(self) -> None:
        """Forget the bundle's modules, and release what is unpacked."""
        for part in self.parts:
            part.close()
        self.release()

    def release(self) -> None:
        """Allow the removal of what is unpacked; nothing more can be imported from it."""
        for part in self.parts:
            if part.copy is not None:
                part.copy.close()

    def _chain(self, hook_type: str) -> Chain:
        asking = [part for part in self.parts if hook_type in part.chained]
        if len(asking) > 1:
            return Chain(error=_asked_twice(hook_type, asking))
        chains = [part.chain(hook_type) for part in asking or self.parts]
        error = self.error or next((chain.error for chain in chains if chain.error is not None), None)
        links = tuple(link for chain in chains for link in chain.links)
        return Chain(links, error, any(link.hook.is_async for link in links))


def describe_error(error: BundleError) -> dict[str, Any]:
    """Return an error as a map that msgpack can carry."""
    return {"message": error.message, "file": error.file, "line": error.line}


def _asked_twice(hook_type: str, parts: list[BundlePart]) -> BundleError:
    names = ", ".join(part.name for part in parts)
    message = (
        f"{names} belong to one API, and the gateway calls * for each: only one of them may list * for {hook_type}"
    )
    return BundleError(f"{message}; name the hooks in the others", str(parts[-1].root))


def _belongs(hook: Hook, hook_type: str) -> bool:
    return hook.definition.hook_type == hook_type and not hook.listed
