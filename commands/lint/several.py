"""Find what keeps several bundles of one API from working together.

Source: `mergeBundleManifest` in Tyk's gateway/coprocess_bundle.go, from v5.15 on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bundles.bundle import AUTH_TYPE
from tykpy.bundles.files.manifest import MANIFEST_NAME, Manifest
from tykpy.commands.lint.findings import Finding

_RULE: Final = "several"


class Part(NamedTuple):
    """One of an API's bundles."""

    path: Path
    manifest: Manifest


def together(parts: list[Part]) -> Iterator[tuple[Part, list[Finding]]]:
    """Yield each part with its conflicts with those before it."""
    for index, part in enumerate(parts):
        problems = (
            problem
            for earlier in parts[:index]
            for problem in _conflicts(part.manifest, earlier.manifest, earlier.path.name)
        )
        yield part, [Finding(f"{part.path}/{MANIFEST_NAME}", 0, 0, _RULE, problem) for problem in problems]


def _conflicts(mine: Manifest, earlier: Manifest, name: str) -> Iterator[str]:
    refused = "the gateway does not load an API with both"
    if mine.driver and earlier.driver and mine.driver != earlier.driver:
        yield f"driver {mine.driver}, but {name} has {earlier.driver}: {refused}; write the same"
    auth, other = _names(mine, AUTH_TYPE), _names(earlier, AUTH_TYPE)
    if auth and other:
        yield f"auth_check {', '.join(auth)}, but {name} has {', '.join(other)}: {refused}; keep one"
    for hook_type in sorted(mine.chained & earlier.chained):
        yield f"{name} lists * for {hook_type} as well: only one of an API's bundles may; name the hooks in the others"
    for hook in sorted((set(_names(mine)) & set(_names(earlier))) - {*auth}):
        twice = "the gateway asks by name, so that one runs twice, and this one never"
        yield f"{name} has a hook {hook} too: {twice}; rename it"


def _names(manifest: Manifest, hook_type: str = "") -> list[str]:
    """Return the hooks that the gateway calls by name."""
    called = [hook for hook in manifest.hooks if not hook.disabled and not hook.in_chain]
    return [hook.name for hook in called if hook_type in ("", hook.hook_type)]
