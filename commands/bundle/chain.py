"""`--chain`: one entry `*` for all hooks of a type, so that the gateway makes one call instead of one per hook.

The hooks' entries move into the `chain` of that entry, where workers read them. Bundles whose result would differ from
that of separate calls are refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from tykpy.bundles.files.manifest import CHAIN_NAME, HOOK_TYPES, MANIFEST_NAME
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.rules import hooks_that_cannot_run, missing_hooks
from tykpy.commands.lint.sources import SourceHook, Sources

_AUTH: Final = "auth_check"
_RESPONSE: Final = "response"
_GO_PLUGIN: Final = ".so"

_FOR_ALL: Final = (
    "the broker's --timeout is for a whole chain, no longer for each hook",
    f'logs and metrics call it "{CHAIN_NAME}"; the error of a hook still names the hook',
    f'of an API\'s bundles only one may have "{CHAIN_NAME}" for a hook type, and a server other than tykpy knows none',
)


@dataclass(frozen=True, slots=True)
class Chained:
    """A manifest with chains, and what changes with them."""

    fields: dict[str, Any]
    changes: tuple[str, ...]


def chain_hooks(fields: Mapping[str, Any], sources: Sources, shown: str) -> Chained:
    """Replace the hooks of each type that has several by one entry `*`.

    `fields` are those of a manifest, `shown` is the bundle's name in messages.
    Raises CommandError with file, hook and reason of everything whose result would differ.
    """
    middleware: dict[str, Any] = fields["custom_middleware"]
    chains = {key: middleware[key] for key in HOOK_TYPES if key != _AUTH and _is_several(middleware.get(key))}
    manifest = f"{shown}/{MANIFEST_NAME}"
    problems = [*_manifest_problems(middleware, chains, manifest), *_source_problems(chains, sources, shown)]
    if problems:
        raise CommandError("\n".join(problems))
    entries = {key: [{"name": CHAIN_NAME, "raw_body_only": True, "chain": hooks}] for key, hooks in chains.items()}
    changes = [change for key in HOOK_TYPES for change in _changes(key, middleware.get(key), key in chains, sources)]
    return Chained(
        {**fields, "custom_middleware": {**middleware, **entries}}, (*changes, *(_FOR_ALL if chains else ()))
    )


def _is_several(entries: Any) -> bool:
    """Return whether the gateway makes several calls for these entries."""
    return sum(not entry.get("disabled") for entry in entries or ()) > 1


def _manifest_problems(middleware: Mapping[str, Any], chains: Mapping[str, Any], manifest: str) -> Iterator[str]:
    if middleware["driver"].lower() != "grpc":
        yield (
            f'{manifest}: the driver is "{middleware["driver"]}", and the gateway\'s embedded Python knows no '
            f'"{CHAIN_NAME}"; see `tykpy bundle convert --chain`'
        )
    for key, hooks in chains.items():
        for hook in hooks:
            place = f"{manifest}: {key}: {hook['name']}"
            if hook["name"] == CHAIN_NAME:
                yield f"{place} runs the whole chain, and the hooks beside it would run twice; leave out one of both"
            if hook.get("timeout"):
                yield f"{place} has a timeout of its own, which nobody would apply inside a chain; leave it out"
            if key == _RESPONSE and str(hook.get("path", "")).endswith(_GO_PLUGIN):
                yield f"{place} is a Go plugin ({hook['path']}), which the gateway runs itself"


def _source_problems(chains: Mapping[str, Any], sources: Sources, shown: str) -> Iterator[str]:
    """Yield what keeps a hook from running: a chain runs only if all of its hooks can."""
    chained = {hook["name"] for hooks in chains.values() for hook in hooks if not hook.get("disabled")}
    broken = chain(missing_hooks(sources, shown), *map(hooks_that_cannot_run, sources.files))
    for finding in broken:
        if finding.message.partition(" ")[0] in chained:
            yield f"{finding}; and no hook of its chain would run"
    for file in sources.files:
        for hook in file.hooks:
            if hook.function.name in chained and "timeout" in hook.options:
                yield (
                    f"{file.name}:{hook.function.lineno}: {hook.function.name} has a timeout of its own, which nobody "
                    "would apply inside a chain; leave it out"
                )


def _changes(key: str, entries: Any, is_chained: bool, sources: Sources) -> Iterator[str]:
    """Yield what changes for one key of the manifest, or why it stays as it is."""
    if not entries:
        return
    if not is_chained:
        yield f"{key}: {'does not chain' if key == _AUTH else 'has one hook'}, and stays as it is"
        return
    names = [entry["name"] for entry in entries]
    yield f'{key}: the gateway makes one call, "{CHAIN_NAME}", which runs {", ".join(names)} in this order'
    for flag, change in (
        ("disabled", "tykpy leaves them out, where the gateway did"),
        ("raw_body_only", "tykpy gives them no text of the body; the gateway sends each body once, for all hooks"),
        ("require_session", "the gateway ignores it for driver grpc, before and now"),
    ):
        having = [entry["name"] for entry in entries if entry.get(flag)]
        if having:
            yield f"{key}: {flag} ({', '.join(having)}): {change}"
    again = [name for name in names if any("idempotent" in hook.options for hook in _written(name, sources))]
    if again:
        yield f"{key}: idempotent ({', '.join(again)}): a chain is not run again when its worker dies"


def _written(name: str, sources: Sources) -> Iterator[SourceHook]:
    return (hook for file in sources.files for hook in file.hooks if hook.function.name == name)
