"""OpenAPI documents with Tyk's extension `x-tyk-api-gateway` (Tyk: apidef/oas)."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tykpy.devserver.definitions.api import (
    Api,
    ConfiguredHook,
    IdExtractor,
    MethodTransform,
    Middleware,
    OwnAnswer,
    PathRule,
    UrlRewrite,
)
from tykpy.devserver.definitions.classic import expression
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.errors import DefinitionError

EXTENSION: Final = "x-tyk-api-gateway"
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class _State(msgspec.Struct):
    active: bool = True


class _Info(msgspec.Struct):
    id: str = ""
    orgId: str = ""  # noqa: N815 (Tyk's name)
    name: str = ""
    state: _State = msgspec.field(default_factory=_State)


class _ListenPath(msgspec.Struct):
    value: str = "/"
    strip: bool = False


class _Header(msgspec.Struct):
    enabled: bool = False
    name: str = ""


class _Plugin(msgspec.Struct, rename="camel"):
    enabled: bool = False
    function_name: str = ""
    raw_body_only: bool = False


class _ExtractorOptions(msgspec.Struct, rename="camel"):
    header_name: str = ""
    form_param_name: str = ""
    regexp: str = ""
    regexp_match_index: float = 0
    xpath_exp: str = msgspec.field(default="", name="xPathExp")


class _Extractor(msgspec.Struct):
    source: str = ""
    # Named as `with` in the document, which is a keyword of Python.
    method: str = msgspec.field(default="", name="with")
    config: _ExtractorOptions = msgspec.field(default_factory=_ExtractorOptions)


class _AuthPlugin(_Plugin, rename="camel"):
    id_extractor: _Extractor = msgspec.field(default_factory=_Extractor)


class _CustomAuth(msgspec.Struct):
    enabled: bool = False
    config: _AuthPlugin = msgspec.field(default_factory=_AuthPlugin)
    header: _Header = msgspec.field(default_factory=_Header)


class _Authentication(msgspec.Struct, rename="camel"):
    enabled: bool = False
    custom: _CustomAuth = msgspec.field(default_factory=_CustomAuth)
    security_schemes: dict[str, dict[str, Any]] = {}
    base_identity_provider: str = ""


class _EventHandler(msgspec.Struct, rename="camel"):
    enabled: bool = False
    trigger: str = ""
    type: str = ""


class _Server(msgspec.Struct, rename="camel"):
    listen_path: _ListenPath = msgspec.field(default_factory=_ListenPath)
    authentication: _Authentication = msgspec.field(default_factory=_Authentication)
    event_handlers: list[_EventHandler] = []


class _Switch(msgspec.Struct):
    enabled: bool = False


class _Upstream(msgspec.Struct, rename="camel"):
    url: str = ""
    preserve_host_header: _Switch = msgspec.field(default_factory=_Switch)


class _BundleOptions(msgspec.Struct):
    enabled: bool = False
    path: str = ""


class _Data(msgspec.Struct):
    enabled: bool = False
    value: dict[str, Any] = {}


class _PluginConfig(msgspec.Struct):
    driver: str = ""
    bundle: _BundleOptions = msgspec.field(default_factory=_BundleOptions)
    data: _Data = msgspec.field(default_factory=_Data)


class _Cache(msgspec.Struct):
    enabled: bool = False
    timeout: float = 60


class _Global(msgspec.Struct, rename="camel"):
    plugin_config: _PluginConfig = msgspec.field(default_factory=_PluginConfig)
    pre_plugins: list[_Plugin] = []
    post_authentication_plugins: list[_Plugin] = []
    post_plugins: list[_Plugin] = []
    response_plugins: list[_Plugin] = []
    cache: _Cache = msgspec.field(default_factory=_Cache)


class _Rewrite(msgspec.Struct, rename="camel"):
    enabled: bool = False
    pattern: str = ""
    rewrite_to: str = ""


class _Method(msgspec.Struct, rename="camel"):
    enabled: bool = False
    to_method: str = ""


class _MockHeader(msgspec.Struct):
    name: str = ""
    value: str = ""


class _Mock(msgspec.Struct):
    enabled: bool = False
    code: int = 200
    body: str = ""
    headers: list[_MockHeader] = []


class _Operation(msgspec.Struct, rename="camel"):
    url_rewrite: _Rewrite = msgspec.field(default_factory=_Rewrite)
    transform_request_method: _Method = msgspec.field(default_factory=_Method)
    ignore_authentication: _Switch = msgspec.field(default_factory=_Switch)
    mock_response: _Mock = msgspec.field(default_factory=_Mock)
    virtual_endpoint: _Switch = msgspec.field(default_factory=_Switch)
    cache: _Cache = msgspec.field(default_factory=_Cache)
    transform_request_headers: _Switch = msgspec.field(default_factory=_Switch)
    transform_request_body: _Switch = msgspec.field(default_factory=_Switch)


class _MiddlewareOptions(msgspec.Struct, rename={"global_": "global"}):
    global_: _Global = msgspec.field(default_factory=_Global)
    operations: dict[str, _Operation] = {}


class _Extension(msgspec.Struct):
    info: _Info = msgspec.field(default_factory=_Info)
    server: _Server = msgspec.field(default_factory=_Server)
    upstream: _Upstream = msgspec.field(default_factory=_Upstream)
    middleware: _MiddlewareOptions = msgspec.field(default_factory=_MiddlewareOptions)


def read_oas(file: JsonFile) -> Api:
    """Read a document. Raises DefinitionError."""
    if EXTENSION not in file.value:
        raise file.wrong((), f'an OpenAPI document without "{EXTENSION}" says nothing to a gateway')
    extension = file.convert(_Extension, (EXTENSION,))
    if not extension.info.id:
        raise file.wrong((EXTENSION, "info"), 'no "id"; every API has one')
    server, middleware = extension.server, extension.middleware.global_
    authentication, plugins = server.authentication, middleware.plugin_config
    schemes = _schemes(file, authentication)
    has_keys = authentication.enabled and (authentication.custom.enabled or bool(schemes))
    rules = list(_rules(file, extension.middleware.operations))
    return Api(
        api_id=extension.info.id,
        org_id=extension.info.orgId,
        name=extension.info.name,
        listen_path=f"/{server.listen_path.value.lstrip('/')}",
        strip_listen_path=server.listen_path.strip,
        target_url=extension.upstream.url,
        preserves_host=extension.upstream.preserve_host_header.enabled,
        is_active=extension.info.state.active,
        is_keyless=not has_keys,
        has_auth_hook=authentication.enabled and authentication.custom.enabled,
        has_auth_token="apiKey" in schemes,
        auth_header=_auth_header(file, authentication),
        base_identity=authentication.base_identity_provider,
        bundle=plugins.bundle.path,
        uses_bundle=plugins.bundle.enabled,
        middleware=_middleware(middleware, authentication.custom.config),
        config_data=plugins.data.value if plugins.data.enabled and plugins.data.value else None,
        ignored=tuple(rule for rule, operation in rules if operation.ignore_authentication.enabled),
        mocks=tuple(_mocks(rules)),
        cached=tuple(rule for rule, operation in rules if operation.cache.enabled and middleware.cache.enabled),
        cache_seconds=middleware.cache.timeout,
        rewrites=tuple(
            UrlRewrite(rule, expression(file, _PLACE, rewrite.pattern), rewrite.rewrite_to)
            for rule, operation in rules
            if (rewrite := operation.url_rewrite).enabled
        ),
        method_transforms=tuple(
            MethodTransform(rule, operation.transform_request_method.to_method.upper())
            for rule, operation in rules
            if operation.transform_request_method.enabled
        ),
        file=file.name,
        left_out=tuple(_left_out(rules, schemes, server)),
    )


_PLACE: Final = (EXTENSION, "middleware", "operations")


def _middleware(options: _Global, auth: _AuthPlugin) -> Middleware:
    return Middleware(
        driver=options.plugin_config.driver.lower(),
        pre=_enabled(options.pre_plugins),
        auth_check=next(iter(_enabled([auth])), None),
        post_key_auth=_enabled(options.post_authentication_plugins),
        post=_enabled(options.post_plugins),
        response=_enabled(options.response_plugins),
        id_extractor=_extractor(auth.id_extractor),
    )


def _enabled(plugins: list[_Plugin]) -> tuple[ConfiguredHook, ...]:
    named = (plugin for plugin in plugins if plugin.enabled and plugin.function_name)
    return tuple(ConfiguredHook(plugin.function_name, plugin.raw_body_only) for plugin in named)


def _extractor(entry: _Extractor) -> IdExtractor | None:
    if not entry.method:
        return None
    config = entry.config
    expression_ = config.regexp if entry.method == "regex" else config.xpath_exp
    return IdExtractor(
        entry.source,
        entry.method,
        config.header_name,
        config.form_param_name,
        expression_,
        int(config.regexp_match_index),
    )


def _schemes(file: JsonFile, authentication: _Authentication) -> set[str]:
    """Return the kinds of the security schemes that are turned on."""
    components = file.value.get("components", {})
    known = components.get("securitySchemes", {}) if isinstance(components, dict) else {}
    enabled = [name for name, options in authentication.security_schemes.items() if options.get("enabled")]
    kinds = (known.get(name, {}) for name in enabled if isinstance(known, dict))
    return {str(kind.get("type", "")) for kind in kinds if isinstance(kind, dict)}


def _auth_header(file: JsonFile, authentication: _Authentication) -> str:
    own = authentication.custom.header
    names = [own.name] if own.enabled else []
    for options in authentication.security_schemes.values():
        header = options.get("header")
        if isinstance(header, dict) and header.get("enabled"):
            names.append(str(header.get("name", "")))
    return next(filter(None, names), "Authorization")


def _rules(file: JsonFile, operations: dict[str, _Operation]) -> Iterator[tuple[PathRule, _Operation]]:
    """Yield what the extension says about the document's operations. Raises DefinitionError if one has no path."""
    places = dict(_operations(file.value.get("paths")))
    for name, operation in operations.items():
        if name not in places:
            raise _unknown_operation(file, name)
        path, method = places[name]
        yield PathRule.exact(path, method), operation


def _operations(paths: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    for path, item in (paths if isinstance(paths, dict) else {}).items():
        for method, operation in (item if isinstance(item, dict) else {}).items():
            if method in _METHODS and isinstance(operation, dict):
                yield str(operation.get("operationId", "")), (path, method)


def _unknown_operation(file: JsonFile, name: str) -> DefinitionError:
    return file.wrong((*_PLACE, name), f'no path has the operationId "{re.sub(r"[^ -~]", "?", name)}"')


def _mocks(rules: list[tuple[PathRule, _Operation]]) -> Iterator[OwnAnswer]:
    for rule, operation in rules:
        if (mock := operation.mock_response).enabled:
            headers = {header.name: header.value for header in mock.headers}
            yield OwnAnswer(rule, mock.code, mock.body, headers)


def _left_out(rules: list[tuple[PathRule, _Operation]], schemes: set[str], server: _Server) -> Iterator[str]:
    yield from (f"security schemes of type {kind}" for kind in sorted(schemes - {"apiKey"}))
    operations = [operation for _, operation in rules]
    if any(operation.virtual_endpoint.enabled for operation in operations):
        yield "virtual endpoints, which are JavaScript"
    if any(one.transform_request_headers.enabled or one.transform_request_body.enabled for one in operations):
        yield "transforms of bodies and headers"
    if any(handler.enabled for handler in server.event_handlers):
        yield "event handlers, which in this form of definition are no hooks"
