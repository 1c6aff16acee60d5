"""Converts API definitions of the gateway of tests/gateway to those of a real gateway, classic and OAS."""

import base64
import json
from typing import Any, Final

_ELSEWHERE: Final = (
    "listen_path",
    "target_url",
    "url_rewrite",
    "method_transform",
    "ignored",
    "reply",
    "mock_response",
    "virtual",
    "cached",
)
"""Keys that are in another place in a classic definition."""
_CHAINS: Final = {
    "prePlugins": "pre",
    "postAuthenticationPlugins": "post_key_auth",
    "postPlugins": "post",
    "responsePlugins": "response",
}
_AUTHORIZATION: Final = {"enabled": True, "name": "Authorization"}
_OPERATION: Final = "of-the-test"
_CACHED_S: Final = 600


def classic(definition: dict[str, Any], target: str) -> dict[str, Any]:
    """Return a classic API definition."""
    versions = {"Default": {"name": "Default", "use_extended_paths": True, "extended_paths": _paths(definition)}}
    return {
        "name": definition["api_id"],
        "active": True,
        "auth": {"auth_header_name": "Authorization"},
        "cache_options": {"enable_cache": "cached" in definition, "cache_timeout": _CACHED_S},
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
        if "cached" in definition:
            middleware["global"]["cache"] = {"enabled": True, "timeout": _CACHED_S}
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
    if "reply" in definition:
        own = definition["reply"]
        action = {"action": "reply", "code": own["code"], "data": own["body"], "headers": {}}
        paths["white_list"] = [{"path": own["path"], "method_actions": {"GET": action}}]
    if "virtual" in definition:
        own = definition["virtual"]
        function = {"response_function_name": "answer", "function_source_type": "blob", "method": "GET"}
        paths["virtual"] = [{**function, "path": own["path"], "function_source_uri": _javascript(own)}]
    if "cached" in definition:
        paths["cache"] = [definition["cached"]]
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
    if "mock_response" in definition:
        own = definition["mock_response"]
        return {"mockResponse": {"enabled": True, "code": own["code"], "body": own["body"]}}, own["path"]
    if "virtual" in definition:
        own = definition["virtual"]
        function = {"enabled": True, "functionName": "answer", "body": _javascript(own)}
        return {"virtualEndpoint": function}, own["path"]
    if "cached" in definition:
        return {"cache": {"enabled": True, "timeout": _CACHED_S}}, definition["cached"]
    return {}, ""


def _javascript(own: dict[str, Any]) -> str:
    """Return the source of a virtual endpoint in Base64."""
    answer = {"Response": {"Code": own["code"], "Body": own["body"], "Headers": {}}, "SessionMeta": {}}
    source = f"function answer(request, session, config) {{ return JSON.stringify({json.dumps(answer)}); }}"
    return base64.b64encode(source.encode()).decode()


def _authentication(definition: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    if definition.get("enable_coprocess_auth"):
        custom: dict[str, Any] = {"enabled": True, "header": _AUTHORIZATION}
        if hook := definition.get("custom_middleware", {}).get("auth_check"):
            custom["config"] = _plugin(hook)
        kinds["custom"] = custom
    if definition.get("use_standard_auth"):
        kinds["securitySchemes"] = {"key": {"enabled": True, "header": _AUTHORIZATION}}
    if base := definition.get("base_identity_provided_by"):
        kinds["baseIdentityProvider"] = base
    return {"authentication": {"enabled": True, **kinds}} if kinds else {}


def _plugins(definition: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"driver": "grpc"}
    if bundle := definition.get("custom_middleware_bundle"):
        config["bundle"] = {"enabled": not definition.get("custom_middleware_bundle_disabled", False), "path": bundle}
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
