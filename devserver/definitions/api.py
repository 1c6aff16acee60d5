"""An API as the gateway serves it, whatever form its definition has."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from re import Pattern
from typing import Any, Final

from tykpy.bundles.files.manifest import CHAIN_NAME, HOOK_TYPES
from tykpy.devserver.messages import GatewayResponse, Values

CUSTOM_AUTH: Final = "custom_auth"
AUTH_TOKEN: Final = "auth_token"
"""Providers of an API's base identity, with Tyk's names."""


@dataclass(frozen=True, slots=True)
class ConfiguredHook:
    """One hook of an API."""

    name: str
    raw_body_only: bool = False


@dataclass(frozen=True, slots=True)
class IdExtractor:
    """How the gateway finds the key of a request without calling the auth hook."""

    source: str
    """`header`, `form` or `body`."""
    method: str
    """`value`, `regex` or `xpath`."""
    header: str = ""
    parameter: str = ""
    expression: str = ""
    match: int = 0


@dataclass(frozen=True, slots=True)
class Middleware:
    """The hooks of an API: of its definition, or of its bundles' manifests."""

    driver: str = "grpc"
    pre: tuple[ConfiguredHook, ...] = ()
    auth_check: ConfiguredHook | None = None
    post_key_auth: tuple[ConfiguredHook, ...] = ()
    post: tuple[ConfiguredHook, ...] = ()
    response: tuple[ConfiguredHook, ...] = ()
    id_extractor: IdExtractor | None = None

    @property
    def count(self) -> int:
        """The number of hooks."""
        chains = (self.pre, self.post_key_auth, self.post, self.response)
        return sum(map(len, chains)) + (self.auth_check is not None)

    @property
    def chained(self) -> frozenset[str]:
        """The hook types of which all hooks of the bundle run in one call, listed or not."""
        chains = {key: getattr(self, key) or () for key in HOOK_TYPES}
        asked = {key: [chain] if isinstance(chain, ConfiguredHook) else chain for key, chain in chains.items()}
        return frozenset(HOOK_TYPES[key] for key in asked if any(hook.name == CHAIN_NAME for hook in asked[key]))


@dataclass(frozen=True, slots=True)
class PathRule:
    """The requests that a rule is for: a pattern of the path below the listen path, and a method (empty: any)."""

    pattern: Pattern[str]
    method: str = ""

    @classmethod
    def classic(cls, path: str, method: str = "") -> "PathRule":
        """Read a path of a classic definition: an expression that is found anywhere, with `{names}`."""
        return cls(re.compile(_named(path)), method.upper())

    @classmethod
    def exact(cls, path: str, method: str = "") -> "PathRule":
        """Read a path of an OpenAPI document."""
        parts = re.split(r"\{[^}]*\}", path)
        return cls(re.compile(f"^{'[^/]+'.join(map(re.escape, parts))}/?$"), method.upper())

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is for this request."""
        return self.method in ("", method) and self.pattern.search(path) is not None


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """An answer of the gateway in place of the upstream's."""

    rule: PathRule
    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> GatewayResponse:
        """Make the response."""
        headers: Values = {name: [value] for name, value in self.headers.items()}
        return GatewayResponse(self.status, headers, self.body.encode())


@dataclass(frozen=True, slots=True)
class UrlRewrite:
    """A new URL for requests whose URL matches."""

    rule: PathRule
    pattern: Pattern[str]
    target: str

    def apply(self, url: str) -> str | None:
        """Return the new URL, with `$1` replaced by the first group; None if the pattern does not match."""
        found = self.pattern.search(url)
        if found is None:
            return None
        groups = found.groups()
        return re.sub(r"\$(\d+)", lambda name: _group(groups, int(name[1])), self.target)


@dataclass(frozen=True, slots=True)
class MethodTransform:
    """A new method for some requests."""

    rule: PathRule
    method: str


@dataclass(frozen=True, slots=True)
class Api:
    """One API."""

    api_id: str = "dev"
    org_id: str = "dev"
    name: str = ""
    listen_path: str = "/"
    strip_listen_path: bool = True
    target_url: str = ""
    preserves_host: bool = False
    is_active: bool = True
    is_keyless: bool = True
    has_auth_hook: bool = False
    """`enable_coprocess_auth`: without it the auth hook is not called, whatever the manifest lists."""
    has_auth_token: bool = False
    """Clients send a key that is known to the gateway."""
    auth_header: str = "Authorization"
    base_identity: str = ""
    """Whose session counts; empty: the last."""
    bundle: str = ""
    """Names of bundles, with commas between them."""
    uses_bundle: bool = True
    middleware: Middleware = field(default_factory=Middleware)
    """Its own hooks, which those of its bundle replace."""
    config_data: Mapping[str, Any] | None = None
    """None if there is none, or it is disabled."""
    ignored: tuple[PathRule, ...] = ()
    """What needs no key."""
    replies: tuple[OwnAnswer, ...] = ()
    """Answers without any hook."""
    mocks: tuple[OwnAnswer, ...] = ()
    """Answers in place of the upstream's."""
    cached: tuple[PathRule, ...] = ()
    cache_seconds: float = 60.0
    rewrites: tuple[UrlRewrite, ...] = ()
    method_transforms: tuple[MethodTransform, ...] = ()
    event_handlers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the `@Event` handlers, by event."""
    file: str = ""
    left_out: tuple[str, ...] = ()
    """What the definition asks for and this gateway does not do."""

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name or self.api_id

    def path_below(self, path: str) -> str:
        """Return a path without the listen path."""
        return path.removeprefix(self.listen_path.rstrip("/"))


def find_api(apis: Iterable[Api], path: str) -> Api | None:
    """Return the API that serves a path: that with the longest listen path."""
    matching = [api for api in apis if api.is_active and _is_below(path, api.listen_path)]
    return max(matching, key=lambda api: len(api.listen_path), default=None)


def _is_below(path: str, listen_path: str) -> bool:
    return path.startswith(listen_path) or path == listen_path.rstrip("/")


def _named(path: str) -> str:
    """Replace `{name}` by an expression for one part of a path, as Tyk's `asRegex`."""
    return re.sub(r"\{[A-Za-z0-9_\-/]*\}", "([^/]*)", path)


def _group(groups: tuple[str | None, ...], number: int) -> str:
    return (groups[number - 1] or "") if 0 < number <= len(groups) else ""
