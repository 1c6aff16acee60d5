"""Classic API definitions (Tyk: apidef.APIDefinition)."""

import re
from collections.abc import Iterator
from re import Pattern
from typing import Any, Final

import msgspec

from tykpy.devserver.definitions.api import Api, MethodTransform, OwnAnswer, PathRule, UrlRewrite
from tykpy.devserver.definitions.middleware import MiddlewareEntry
from tykpy.devserver.definitions.reading import JsonFile

DYNAMIC_HANDLER: Final = "cp_dynamic_handler"
"""The kind of event handler that is a hook."""
_REPLY: Final = "reply"
_EXPORTED: Final = "api_definition"
"""Where the definition is in an export of a dashboard."""
_LEFT_OUT: Final = {
    "use_basic_auth": "basic authentication",
    "use_oauth2": "OAuth 2",
    "use_openid": "OpenID Connect",
    "use_mutual_tls_auth": "mutual TLS",
    "enable_jwt": "JWT authentication",
    "enable_signature_checking": "HMAC signatures",
    "enable_ip_whitelisting": "allowed IP addresses",
    "enable_ip_blacklisting": "blocked IP addresses",
}
"""Switches of a definition that this gateway does not know, and what they turn on."""


class _Proxy(msgspec.Struct):
    listen_path: str = "/"
    target_url: str = ""
    strip_listen_path: bool = False
    preserve_host_header: bool = False


class _Auth(msgspec.Struct):
    auth_header_name: str = ""


class _Handler(msgspec.Struct):
    handler_name: str = ""
    handler_meta: dict[str, Any] = {}


class _Events(msgspec.Struct):
    events: dict[str, list[_Handler]] = {}


class _CacheOptions(msgspec.Struct):
    enable_cache: bool = False
    cache_timeout: float = 60
    cache_all_safe_requests: bool = False


class _Action(msgspec.Struct):
    action: str = ""
    code: int = 200
    data: str = ""
    headers: dict[str, str] = {}


class _PathEntry(msgspec.Struct):
    path: str = ""
    method: str = ""
    disabled: bool = False
    method_actions: dict[str, _Action] = {}


class _RewriteEntry(msgspec.Struct):
    path: str = ""
    method: str = ""
    match_pattern: str = ""
    rewrite_to: str = ""
    disabled: bool = False


class _TransformEntry(msgspec.Struct):
    path: str = ""
    method: str = ""
    to_method: str = ""
    disabled: bool = False


class _Paths(msgspec.Struct):
    ignored: list[_PathEntry] = []
    white_list: list[_PathEntry] = []
    black_list: list[_PathEntry] = []
    cache: list[str] = []
    url_rewrites: list[_RewriteEntry] = []
    method_transforms: list[_TransformEntry] = []
    virtual: list[_PathEntry] = []
    transform: list[_PathEntry] = []
    transform_headers: list[_PathEntry] = []


class _Version(msgspec.Struct):
    use_extended_paths: bool = True
    extended_paths: _Paths = msgspec.field(default_factory=_Paths)


class _Versions(msgspec.Struct):
    not_versioned: bool = True
    default_version: str = ""
    versions: dict[str, _Version] = {}


class _Classic(msgspec.Struct):
    name: str = ""
    api_id: str = ""
    org_id: str = ""
    active: bool = True
    proxy: _Proxy = msgspec.field(default_factory=_Proxy)
    use_keyless: bool = False
    enable_coprocess_auth: bool = False
    use_standard_auth: bool = False
    auth: _Auth = msgspec.field(default_factory=_Auth)
    auth_configs: dict[str, _Auth] = {}
    base_identity_provided_by: str = ""
    custom_middleware_bundle: str = ""
    custom_middleware_bundle_disabled: bool = False
    custom_middleware: MiddlewareEntry = msgspec.field(default_factory=MiddlewareEntry)
    config_data: dict[str, Any] = {}
    config_data_disabled: bool = False
    event_handlers: _Events = msgspec.field(default_factory=_Events)
    cache_options: _CacheOptions = msgspec.field(default_factory=_CacheOptions)
    version_data: _Versions = msgspec.field(default_factory=_Versions)
    # Switches of what is left out.
    use_basic_auth: bool = False
    use_oauth2: bool = False
    use_openid: bool = False
    use_mutual_tls_auth: bool = False
    enable_jwt: bool = False
    enable_signature_checking: bool = False
    enable_ip_whitelisting: bool = False
    enable_ip_blacklisting: bool = False


def read_classic(file: JsonFile) -> Api:
    """Read a definition, as it is or as a dashboard exports it. Raises DefinitionError."""
    root = (_EXPORTED,) if _EXPORTED in file.value else ()
    classic = file.convert(_Classic, root)
    if not classic.api_id:
        raise file.wrong(root, 'no "api_id"; every API has one')
    version = _version(classic.version_data)
    paths = version.extended_paths if version.use_extended_paths else _Paths()
    place = (*root, "version_data", "versions")
    header = classic.auth.auth_header_name or classic.auth_configs.get("coprocess", _Auth()).auth_header_name
    return Api(
        api_id=classic.api_id,
        org_id=classic.org_id,
        name=classic.name,
        listen_path=f"/{classic.proxy.listen_path.lstrip('/')}",
        strip_listen_path=classic.proxy.strip_listen_path,
        target_url=classic.proxy.target_url,
        preserves_host=classic.proxy.preserve_host_header,
        is_active=classic.active,
        is_keyless=classic.use_keyless,
        has_auth_hook=classic.enable_coprocess_auth,
        has_auth_token=classic.use_standard_auth,
        auth_header=header or "Authorization",
        base_identity=classic.base_identity_provided_by,
        bundle=classic.custom_middleware_bundle,
        uses_bundle=not classic.custom_middleware_bundle_disabled,
        middleware=classic.custom_middleware.read(),
        config_data=classic.config_data if classic.config_data and not classic.config_data_disabled else None,
        ignored=tuple(PathRule.classic(entry.path, entry.method) for entry in paths.ignored if not entry.disabled),
        replies=tuple(_replies(paths)),
        cached=tuple(PathRule.classic(path, "GET") for path in paths.cache if classic.cache_options.enable_cache),
        cache_seconds=classic.cache_options.cache_timeout,
        rewrites=tuple(
            UrlRewrite(
                PathRule.classic(entry.path, entry.method),
                expression(file, place, entry.match_pattern),
                entry.rewrite_to,
            )
            for entry in paths.url_rewrites
            if not entry.disabled
        ),
        method_transforms=tuple(
            MethodTransform(PathRule.classic(entry.path, entry.method), entry.to_method.upper())
            for entry in paths.method_transforms
            if not entry.disabled
        ),
        event_handlers={
            event: tuple(
                str(one.handler_meta.get("name", "")) for one in handlers if one.handler_name == DYNAMIC_HANDLER
            )
            for event, handlers in classic.event_handlers.events.items()
        },
        file=file.name,
        left_out=tuple(_left_out(classic, paths)),
    )


def expression(file: JsonFile, place: tuple[str | int, ...], text: str) -> Pattern[str]:
    """Compile a regular expression of a definition. Raises DefinitionError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise file.wrong(place, f"{text!r} is not a regular expression: {error}") from error


def _version(data: _Versions) -> _Version:
    """Return the version that is served: the default one, else the first."""
    named = data.versions.get(data.default_version) or data.versions.get("Default")
    return named or next(iter(data.versions.values()), _Version())


def _replies(paths: _Paths) -> Iterator[OwnAnswer]:
    for entry in (*paths.white_list, *paths.black_list, *paths.ignored):
        for method, action in entry.method_actions.items():
            if action.action == _REPLY and not entry.disabled:
                yield OwnAnswer(PathRule.classic(entry.path, method), action.code, action.data, action.headers)


def _left_out(classic: _Classic, paths: _Paths) -> Iterator[str]:
    yield from (what for switch, what in _LEFT_OUT.items() if getattr(classic, switch))
    if not classic.version_data.not_versioned and len(classic.version_data.versions) > 1:
        yield "versions: one of them is served"
    if paths.virtual:
        yield "virtual endpoints, which are JavaScript"
    if paths.transform or paths.transform_headers:
        yield "transforms of bodies and headers"
    if any(not entry.method_actions and not entry.disabled for entry in (*paths.white_list, *paths.black_list)):
        yield "allow and block lists of paths"
