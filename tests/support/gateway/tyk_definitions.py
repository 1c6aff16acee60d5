"""Converts API definitions of the gateway of tests/gateway to those of a real gateway, classic and OAS."""

from typing import Any, Final

_ELSEWHERE: Final = ("listen_path", "target_url", "url_rewrite", "method_transform", "ignored")
"""Keys that are in another place in a classic definition."""
_CHAINS: Final = {
    "prePlugins": "pre",
    "postAuthenticationPlugins": "post_key_auth",
    "postPlugins": "post",
    "responsePlugins": "response",
}
_AUTHORIZATION: Final = {"enabled": True, "name": "Authorization"}
_OPERATION: Final = "of-the-test"


def classic(definition: dict[str, Any], target: str) -> dict[str, Any]:
    """Return a classic API definition."""
    versions = {"Default": {"name": "Default", "use_extended_paths": True, "extended_paths": _paths(definition)}}
    return {
        "name": definition["api_id"],
        "active": True,
        "auth": {"auth_header_name": "Authorization"},
        "version_data": {"not_versioned": True, "versions": versions},
        "proxy": {"listen_path": definition["listen_path"], "target_url": target, "strip_listen_path": True},
        **{key: value for key, value in definition.items() if key not in _ELSEWHERE},
    }


def oas(definition: dict[str, Any], target: str) -> dict[str, Any]:
    """Return an OpenAPI document with Tyk's extension."""
    state = {"active": True}
    names = {"name": definition["api_id"], "id": definition["api_id"], "orgId": definition.get("org_id", "")}
    server = {"listenPath": {"value": definition["listen_path"], "strip": True}, **_authentication(definition)}
    operation, path = _operation(definition)
    middleware: dict[str, Any] = {"global": _plugins(definition)}
    paths: dict[str, Any] = {}
    if operation:
        middleware["operations"] = {_OPERATION: operation}
        paths[path] = {"get": {"operationId": _OPERATION, "responses": {"200": {"description": "any"}}}}
    return {
        "openapi": "3.0.3",
        "info": {"title": definition["api_id"], "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "Authorization"}}},
        "security": [{"key": []}] if definition.get("use_standard_auth") else [],
        "x-tyk-api-gateway": {
            "info": {**names, "state": state},
            "upstream": {"url": target},
            "server": server,
            "middleware": middleware,
        },
    }


def _paths(definition: dict[str, Any]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for name, kind in (("url_rewrite", "url_rewrites"), ("method_transform", "method_transforms")):
        if name in definition:
            paths[kind] = [{"method": "GET", **definition[name]}]
    if "ignored" in definition:
        paths["ignored"] = [{"path": definition["ignored"], "method_actions": {}}]
    return paths


def _operation(definition: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a document's only operation, and its path."""
    if "url_rewrite" in definition:
        rewrite = definition["url_rewrite"]
        done = {"enabled": True, "pattern": rewrite["match_pattern"], "rewriteTo": rewrite["rewrite_to"]}
        return {"urlRewrite": done}, rewrite["path"]
    if "method_transform" in definition:
        transform = definition["method_transform"]
        return {"transformRequestMethod": {"enabled": True, "toMethod": transform["to_method"]}}, transform["path"]
    if "ignored" in definition:
        return {"ignoreAuthentication": {"enabled": True}}, definition["ignored"]
    return {}, ""


def _authentication(definition: dict[str, Any]) -> dict[str, Any]:
    if definition.get("enable_coprocess_auth"):
        custom: dict[str, Any] = {"enabled": True, "header": _AUTHORIZATION}
        if hook := definition.get("custom_middleware", {}).get("auth_check"):
            custom["config"] = _plugin(hook)
        return {"authentication": {"enabled": True, "custom": custom}}
    if definition.get("use_standard_auth"):
        schemes = {"key": {"enabled": True, "header": _AUTHORIZATION}}
        return {"authentication": {"enabled": True, "securitySchemes": schemes}}
    return {}


def _plugins(definition: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"driver": "grpc"}
    if bundle := definition.get("custom_middleware_bundle"):
        config["bundle"] = {"enabled": True, "path": bundle}
    if data := definition.get("config_data"):
        config["data"] = {"enabled": not definition.get("config_data_disabled", False), "value": data}
    inline = definition.get("custom_middleware", {})
    hooks = {name: [_plugin(hook) for hook in inline[key]] for name, key in _CHAINS.items() if key in inline}
    return {"pluginConfig": config, **hooks}


def _plugin(hook: dict[str, Any]) -> dict[str, Any]:
    return {
        "enabled": not hook.get("disabled", False),
        "functionName": hook["name"],
        "path": "",
        "rawBodyOnly": hook.get("raw_body_only", False),
    }
