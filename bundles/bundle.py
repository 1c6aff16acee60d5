"""What is known of one bundle: its hooks, the chains they form, and what is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.discovery import key_of
from tykpy.bundles.files.manifest import HOOK_TYPES, ListedHook
from tykpy.bundles.files.unpacked import UnpackedCopy
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
    """A hook that is there, or should be, and cannot be run."""

    name: str
    hook_type: str | None
    error: BundleError
    missing: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the fault as a map that msgpack can carry."""
        return {"name": bounded(self.name, MAX_NAME), "hook_type": self.hook_type, **describe_error(self.error)}


class Chain(NamedTuple):
    """All hooks of one type in the order they run; with an error none of them may (a check would be left out)."""

    links: tuple[ChainLink, ...] = ()
    error: BundleError | None = None
    is_async: bool = False
    """Some hook of it is `async def`."""


@dataclass(slots=True)
class BundlePart:
    """One folder or file of code with imports of its own; most bundles are one part."""

    name: str
    root: Path
    hooks: dict[str, Hook] = field(default_factory=dict)
    faulty: dict[str, FaultyHook] = field(default_factory=dict)
    error: BundleError | None = None
    listed: tuple[ListedHook, ...] = ()
    chained: frozenset[str] = frozenset()
    """The hook types for which its manifest has the gateway ask for the whole chain."""
    space: ImportSpace | None = None
    copy: UnpackedCopy | None = None
    """Of a ZIP: where it is unpacked."""

    def give_back(self) -> None:
        """Release the unpacked copy; nothing more is imported from it."""
        if self.copy is not None:
            self.copy.close()

    def chain(self, hook_type: str) -> Chain:
        """Return the part's chain: the hooks that the manifest lists for `*`, and no others.

        Where it lists none: all of its hooks in its order, then those it does not list as defined.
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
    """The parts that one bundle hash stands for; read-only once made."""

    def __init__(
        self, name: str, hashes: Iterable[str], path: Path, parts: Iterable[BundlePart], is_complete: bool = True
    ) -> None:
        """Join the parts; of hooks of one name the first counts. `is_complete`: no further part is to come."""
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
        """The path as text: tells bundles apart, also between processes."""
        return key_of(self.path)

    @property
    def has_events(self) -> bool:
        """Some of its hooks handle events."""
        return any(hook.shape.is_event for hook in self.hooks.values())

    @property
    def is_other_file(self) -> bool:
        """It is a `.py` file without hooks that lies beside bundles, and is none itself."""
        return self.path.suffix == ".py" and self.error is None and not self.hooks and not self.faulty

    @property
    def count(self) -> int:
        """How many hooks it has, the faulty ones included."""
        return sum(len(part.hooks) + len(part.faulty) for part in self.parts)

    @property
    def is_sound(self) -> bool:
        """Everything is there, and could be loaded."""
        return self.is_complete and not self.is_other_file and self.error is None and not self.faulty

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        errors = [part.error for part in self.parts if part.error is not None]
        return [str(error) for error in errors] + [str(faulty.error) for faulty in self.faulty.values()]

    def describe(self) -> dict[str, Any]:
        """Return what `tykpy hooks` and the router want to know, as a map that msgpack can carry."""
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
        """Forget the bundle's modules, and give back what is unpacked."""
        for part in self.parts:
            if part.space is not None:
                part.space.close()
            part.give_back()

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
