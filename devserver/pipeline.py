"""A request's way through the gateway, in Tyk's order: Pre, auth check, PostKeyAuth, access rights, limits, transforms,
the gateway's own answers, Post, upstream, Response.

No HTTP server: a request goes in, a `Trace` comes out.
"""

import asyncio
import itertools
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urljoin, urlsplit

from tyk.proto.coprocess_object_pb2 import Event, Object
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tyk.request import canonical_header
from tykpy.devserver.definitions.api import AUTH_TOKEN, CUSTOM_AUTH, Api, ConfiguredHook, PathRule, find_api
from tykpy.devserver.endings import (
    MIDDLEWARE_ERROR,
    PROXY_ERROR,
    Answered,
    ErrorTemplates,
    Refused,
    is_writable,
)
from tykpy.devserver.hooks.contract import HookAnswer, Hooks, Triggered
from tykpy.devserver.identity.id_extractor import extracted_key
from tykpy.devserver.identity.keys import Keys, PolicyError
from tykpy.devserver.identity.sessions import as_returned
from tykpy.devserver.messages import ECHO_URL, GatewayRequest, GatewayResponse
from tykpy.devserver.objects import (
    apply_headers,
    apply_response,
    build_object,
    join_metadata,
    query_after,
    with_query,
)
from tykpy.devserver.trace import HandlerCall, HookCall, Trace
from tykpy.workers.dispatch.sampled_checks import changes_ignored
from tykpy.workers.events import go_time
from tykpy.workers.objects.go_urls import is_request_uri, split_query

AUTH_FAILURE: Final = "AuthFailure"
DRIVER: Final = "grpc"
"""The only driver of the gateway whose hooks run here."""
MAX_EVENT_DEPTH: Final = 5
"""Number of handlers in a chain of triggered events after which no further handler runs, as in the broker."""

MAX_CACHED: Final = 1_000
"""Responses in the cache; one more empties it."""
_NS_PER_S: Final = 1_000_000_000

Observer = Callable[[Trace], None]


class Upstream(Protocol):
    """Where requests go."""

    def url_for(self, api: Api) -> str:
        """Return the URL that stands for the API's target."""

    async def send(self, request: GatewayRequest) -> GatewayResponse:
        """Send a request with an absolute URL. Raises OSError."""


@dataclass(slots=True)
class GatewayPipeline:
    """The gateway: its APIs, and what their requests need."""

    apis: tuple[Api, ...]
    hooks: Hooks
    upstream: Upstream
    keys: Keys = field(default_factory=Keys)
    templates: ErrorTemplates = field(default_factory=ErrorTemplates)
    observers: list[Observer] = field(default_factory=list)
    """Called with every trace when its request has been answered, and again when an event handler has ended."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _cache: dict[str, tuple[float, GatewayResponse]] = field(default_factory=dict)
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, request: GatewayRequest) -> Trace:
        """Take a request through its API. The trace has the answer."""
        trace = Trace(self.next_number(), request.copy(), started=self.keys.clock())
        started = time.perf_counter()
        api = find_api(self.apis, request.path)
        if api is None:
            trace.response = GatewayResponse(404, {"Content-Type": ["text/plain"]}, b"404 page not found\n")
            trace.error = f"no API listens at {request.path}"
        else:
            trace.api_id = api.api_id
            trace.response = await self._answer(_Passage(self, api, request, trace))
        trace.seconds = time.perf_counter() - started
        self.report(trace)
        return trace

    def next_number(self) -> int:
        """Return the number of the next trace."""
        return next(self._numbers)

    async def close(self) -> None:
        """Wait for the event handlers that run."""
        while self._handlers:
            await asyncio.wait(self._handlers)

    def report(self, trace: Trace) -> None:
        """Show a trace to all observers."""
        for observer in self.observers:
            observer(trace)

    def start_handlers(self, trace: Trace, api: Api, event: str, meta: dict[str, Any]) -> None:
        """Run an API's handlers of one of the gateway's own events; nobody waits for them."""
        message = {"Type": event, "Meta": meta, "TimeStamp": go_time(int(self.keys.clock() * _NS_PER_S))}
        spec = {"APIID": api.api_id, "OrgID": api.org_id}
        for name in api.event_handlers.get(event, ()):
            document = {"message": message, "handler_name": name, "spec": spec}
            self._start(trace, Triggered(event, name, json.dumps(document)), name)

    def start_triggered(self, trace: Trace, triggered: Iterable[Triggered]) -> None:
        """Run the handlers of events that hooks triggered."""
        for event in triggered:
            if event.document and event.depth < MAX_EVENT_DEPTH:
                self._start(trace, event, event.name)

    def cached(self, key: str) -> GatewayResponse | None:
        """Return a response that is still fresh."""
        expires_at, response = self._cache.get(key, (0.0, None))
        return response.copy() if response is not None and self.keys.clock() < expires_at else None

    def keep(self, key: str, response: GatewayResponse, seconds: float) -> None:
        """Remember a response."""
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[key] = self.keys.clock() + seconds, response.copy()

    async def _answer(self, passage: "_Passage") -> GatewayResponse | None:
        try:
            response = await passage.respond()
        except Answered as answered:
            response = answered.response
        except Refused as refused:
            passage.trace.error = refused.message
            response = self.templates.response(refused, passage.request)
        if is_writable(response):
            return response
        passage.trace.note("answer", f"invalid WriteHeader code {response.status}: a gateway drops the connection")
        return None

    def _start(self, trace: Trace, event: Triggered, handler: str) -> None:
        task = asyncio.create_task(self._handle(trace, event, handler))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _handle(self, trace: Trace, event: Triggered, handler: str) -> None:
        answer = await self.hooks.send_event(Event(payload=event.document))
        if answer.problem is not None and answer.problem.status == "NOT_FOUND" and event.depth:
            return  # triggered events need no handler
        trace.events.append(HandlerCall(event.name, handler, event.document, answer))
        self.start_triggered(trace, answer.triggered)
        self.report(trace)


class _Passage:
    """One request on its way through its API."""

    def __init__(self, pipeline: GatewayPipeline, api: Api, request: GatewayRequest, trace: Trace) -> None:
        self._pipeline = pipeline
        self._api = api
        self._keys = pipeline.keys
        self.request = request
        self.trace = trace
        self._key = ""
        self._session: SessionState | None = None
        self._rewritten: str | None = None
        """Where a URL rewrite of the API sends the request."""
        self._leaves_target = False
        """Whether the rewrite names a host of its own."""
        self._transformed = ""
        """The method that a method transform of the API gives it."""

    async def respond(self) -> GatewayResponse:
        """Return the answer. Raises Refused or Answered where the way ends early."""
        api, middleware = self._api, self._api.middleware
        for own in api.replies:
            if self._is_for(own.rule):
                self.trace.note("reply", "the definition answers this path; no hook runs")
                return own.response()
        await self._call_all(middleware.pre, "Pre")
        await self._authenticate()
        if not api.is_keyless:
            await self._call_all(middleware.post_key_auth, "PostKeyAuth")
        self._check_access()
        self._count()
        self._transform()
        cache_key = f"{api.api_id} {self.request.url}" if any(map(self._is_for, api.cached)) else ""
        if cache_key and (kept := self._pipeline.cached(cache_key)) is not None:
            self.trace.note("cache", "the answer is in the cache; Post and Response hooks do not run")
            return kept
        response = await self._own_answer_or_upstream()
        for hook in middleware.response:
            await self._call_response(hook, response)
        if cache_key:
            self._pipeline.keep(cache_key, response, api.cache_seconds)
        return response

    async def _own_answer_or_upstream(self) -> GatewayResponse:
        for own in self._api.mocks:
            if self._is_for(own.rule):
                self.trace.note("mock", "the definition answers in place of the upstream; Post hooks do not run")
                return own.response()
        await self._call_all(self._api.middleware.post, "Post")
        return await self._send()

    def _is_for(self, rule: PathRule) -> bool:
        return rule.matches(self.request.method, self._api.path_below(self.request.path))

    # Hooks.

    async def _call_all(self, hooks: Iterable[ConfiguredHook], hook_type: str) -> None:
        for hook in hooks:
            await self._call(hook, hook_type)

    async def _call(self, hook: ConfiguredHook, hook_type: str) -> Object:
        """Call a request hook and apply its answer: Tyk's CoProcessMiddleware.ProcessRequest."""
        if self._api.middleware.driver != DRIVER:
            self.trace.note("hooks", f"the driver is {self._api.middleware.driver!r}: {hook.name} is not called")
            raise Refused(500, HTTPStatus.INTERNAL_SERVER_ERROR.phrase)
        try:
            sent = build_object(self._api, hook, hook_type, self.request, self._session)
        except ValueError as error:
            self.trace.note("hooks", f"{hook.name} is not called: a header or parameter is not UTF-8 ({error})")
            status, message = (403, "Key not authorised") if hook_type == "CustomKeyCheck" else (500, MIDDLEWARE_ERROR)
            raise Refused(status, message) from error
        self._show_transforms(sent)
        returned = (await self._dispatch(hook, hook_type, sent)).object
        if returned is None:
            status, message = (403, "Key not authorised") if hook_type == "CustomKeyCheck" else (500, MIDDLEWARE_ERROR)
            raise Refused(status, message)
        self._apply(hook, returned)
        join_metadata(returned)
        self._override(returned)
        return returned

    async def _dispatch(self, hook: ConfiguredHook, hook_type: str, sent: Object) -> HookAnswer:
        answer = await self._pipeline.hooks.call(sent)
        call = HookCall(hook_type, hook.name, sent, answer)
        if answer.object is not None:
            call.ignored = tuple(changes_ignored(sent, answer.object))
        self.trace.steps.append(call)
        self._pipeline.start_triggered(self.trace, answer.triggered)
        return answer

    def _apply(self, hook: ConfiguredHook, returned: Object) -> None:
        """Change the request as the returned object says: Tyk's ObjectPostProcess."""
        request, message = self.request, returned.request
        request.body = message.raw_body
        apply_headers(request, returned)
        query = query_after(request.url, returned)
        if not is_request_uri(message.url):
            self.trace.note("hooks", f"the URL that {hook.name} left does not parse: {message.url!r}")
            raise Refused(500, MIDDLEWARE_ERROR)
        if self._rewritten is None:
            request.url = message.url
        else:
            self._rewritten = message.url  # whole, its query with it
        if self._transformed:
            self._transformed = message.method
        else:
            request.method = message.method
        request.url = with_query(request.url, query)

    def _override(self, returned: Object) -> None:
        """HookAnswer in place of the upstream if a hook asks for it."""
        overrides = returned.request.return_overrides
        body = overrides.response_error or overrides.response_body
        if overrides.response_code <= 0:
            return
        headers = {canonical_header(name): value for name, value in overrides.headers.items()}
        if overrides.response_code >= HTTPStatus.BAD_REQUEST and not overrides.override_error:
            self._auth_failed(returned.session.metadata.get("token", ""))
            raise Refused(overrides.response_code, body or "Key not authorised", headers)
        values = {name: [value] for name, value in headers.items()}
        raise Answered(GatewayResponse(overrides.response_code, values, body.encode()))

    async def _call_response(self, hook: ConfiguredHook, response: GatewayResponse) -> None:
        """Call a response hook: Tyk's CustomMiddlewareResponseHook.HandleResponse."""
        try:
            sent = build_object(self._api, hook, "Response", self.request, self._session, response)
        except ValueError as error:
            raise Refused(500, MIDDLEWARE_ERROR) from error
        returned = (await self._dispatch(hook, "Response", sent)).object
        if returned is None or not returned.HasField("response"):
            raise Refused(500, MIDDLEWARE_ERROR)
        apply_response(response, sent.response, returned.response)

    # Authentication.

    async def _authenticate(self) -> None:
        """Run the auth hook if the API has one; look the key up if it wants that too, or has no such hook."""
        api = self._api
        if api.is_keyless or any(map(self._is_for, api.ignored)):
            return
        hook = api.middleware.auth_check if api.has_auth_hook else None
        if hook is not None:
            await self._authenticate_by_hook(hook)
        if api.has_auth_token or hook is None:
            self._authenticate_by_key()
        if self._session is not None and self._session.is_inactive:
            raise Refused(403, "Key is inactive, please renew")
        if self._session is not None and self._keys.is_expired(self._session):
            raise Refused(401, "Key has expired, please renew")

    async def _authenticate_by_hook(self, hook: ConfiguredHook) -> None:
        key = self._extracted_key()
        if key:
            stored = self._keys.find(key)
            if stored is not None and stored.id_extractor_deadline > self._keys.clock():
                self.trace.note("auth", f"the id extractor found a session: {hook.name} is not called")
                self._identify(CUSTOM_AUTH, key, stored)
                return
        returned = await self._call(hook, "CustomKeyCheck")
        token = returned.session.metadata.get("token", "")
        if not returned.HasField("session") or not token:
            self.trace.note(
                "auth", f'{hook.name} left no session with a token in its metadata (metadata["token"] = key)'
            )
            raise self._forbidden(self.request.header("Authorization"))
        self._take_session(as_returned(returned.session), key or token, token)

    def _extracted_key(self) -> str:
        extractor = self._api.middleware.id_extractor
        if extractor is None:
            return ""
        key = extracted_key(extractor, self._api.org_id, self.request)
        if key is None:
            self.trace.note("auth", "the id extractor found no value: the auth hook is not called")
            raise Refused(400, "Authorization field missing")
        return key

    def _take_session(self, session: SessionState, key: str, token: str) -> None:
        """Use the session that an auth hook returned, and store it; its quota is that of the stored one."""
        session.org_id, session.key_id = self._api.org_id, key
        try:
            self._keys.apply_policies(session)
        except PolicyError as error:
            self.trace.note("auth", str(error))
            raise self._forbidden(token) from error
        if (stored := self._keys.find(key)) is not None:
            session.quota_renews, session.quota_remaining = stored.quota_renews, stored.quota_remaining
        self._identify(CUSTOM_AUTH, key, session)
        if self._session is session:
            self._keys.store(key, session)

    def _authenticate_by_key(self) -> None:
        key = self.request.header(self._api.auth_header)
        if not key:
            raise Refused(401, "Authorization field missing")
        session = self._keys.find(key)
        if session is None:
            self.trace.note("auth", f"the key in {self._api.auth_header} is unknown (--keys FILE gives known ones)")
            self._auth_failed(key)
            raise Refused(403, "Access to this API has been disallowed")
        self._identify(AUTH_TOKEN, key, session)

    def _identify(self, provider: str, key: str, session: SessionState) -> None:
        """Make a session the request's if the API takes its identity from there."""
        if self._api.base_identity in ("", provider):
            self._key, self._session = key, session

    def _forbidden(self, key: str) -> Refused:
        self._auth_failed(key)
        return Refused(403, HTTPStatus.FORBIDDEN.phrase)

    def _auth_failed(self, key: str) -> None:
        request = self.request
        meta = {
            "Message": "Auth Failure",
            "OriginatingRequest": b64encode(_on_the_wire(request)).decode(),
            "Path": request.path,
            "Origin": request.client,
            "Key": key,
        }
        self._pipeline.start_handlers(self.trace, self._api, AUTH_FAILURE, meta)

    # Access rights, limits, transforms, and the upstream.

    def _check_access(self) -> None:
        session = self._session
        if session is not None and session.access_rights and self._api.api_id not in session.access_rights:
            self.trace.note("access", f"the session's access rights do not name the API {self._api.api_id}")
            raise Refused(403, "Access to this API has been disallowed")

    def _count(self) -> None:
        if self._session is None:
            return
        refused = self._keys.count(self._key, self._session)
        self._keys.store(self._key, self._session)
        if refused is not None:
            raise Refused(*refused)

    def _transform(self) -> None:
        """Note where and how the request will be sent: it takes effect after the Post hooks, which see it."""
        for rewrite in self._api.rewrites:
            if self._is_for(rewrite.rule):
                self._rewritten = rewrite.apply(self.request.url)
                if self._rewritten is not None:
                    self._note_rewrite(self._rewritten)
                break
        for transform in self._api.method_transforms:
            if self._is_for(transform.rule):
                self._transformed = transform.method
                self.trace.note("method", f"becomes {transform.method}")
                break

    def _note_rewrite(self, url: str) -> None:
        try:
            self._leaves_target = bool(_host_of(url))
            self.trace.note("rewrite", f"to {url}")
        except ValueError:  # parts of the client's URL may be in the new host
            self.trace.note("rewrite", f"left out, the new URL does not parse: {url!r}")
            self._rewritten = None

    def _show_transforms(self, sent: Object) -> None:
        """Let a hook see the request as it will be sent."""
        if self._rewritten is not None:
            sent.request.url = self._rewritten
            sent.request.request_uri = _uri_of(self._rewritten)
        if self._transformed:
            sent.request.method = self._transformed

    async def _send(self) -> GatewayResponse:
        self._direct()
        trace = self.trace
        trace.sent = self.request.copy()
        started = time.perf_counter()
        try:
            response = await self._pipeline.upstream.send(self.request)
        except (OSError, ValueError) as error:
            trace.note("upstream", f"{self.request.url} did not answer: {error}", time.perf_counter() - started)
            raise Refused(500, PROXY_ERROR) from error
        source = "the built-in echo" if self.request.url.startswith(ECHO_URL) else self.request.url
        trace.note("upstream", f"{response.status} from {source}", time.perf_counter() - started)
        trace.received = response.copy()
        return response

    def _direct(self) -> None:
        """Turn the request into that for the upstream. A rewrite to another host is followed as it is."""
        request, target = self.request, self._pipeline.upstream.url_for(self._api)
        if self._transformed:
            request.method = self._transformed
        url = request.url if self._rewritten is None else self._rewritten
        if self._rewritten is None and self._api.strip_listen_path:
            url = "/" + self._api.path_below(url).lstrip("/")
        if self._leaves_target:
            if not _host_of(url):
                self.trace.note("upstream", "after a rewrite to another host, a hook left a path without a host")
                raise Refused(500, PROXY_ERROR)
            request.url = url
        else:
            request.url = _joined(target, url)
        if not self._api.preserves_host:
            request.host = urlsplit(request.url).netloc


def _joined(target: str, url: str) -> str:
    """Return a path and query below the path of a target."""
    base, (path, query) = urlsplit(target), _path_and_query(url)
    if base.path.strip("/"):
        path = urljoin("/", base.path.rstrip("/") + "/" + path.lstrip("/"))
    query = "&".join(filter(None, (base.query, query)))
    return f"{base.scheme}://{base.netloc}{path or '/'}" + (f"?{query}" if query else "")


def _uri_of(url: str) -> str:
    """Return path and query of a URL, as Go's `URL.RequestURI()`."""
    path, query = _path_and_query(url)
    return (path or "/") + (f"?{query}" if query else "")


def _path_and_query(url: str) -> tuple[str, str]:
    """Split a URL; one that begins with a slash has no host, even if it begins with two."""
    if url.startswith("/"):
        return split_query(url)
    parts = urlsplit(url)
    return parts.path, parts.query


def _host_of(url: str) -> str:
    """Return host and port of an absolute URL, or an empty string. Raises ValueError."""
    return "" if url.startswith("/") else urlsplit(url).netloc


def _on_the_wire(request: GatewayRequest) -> bytes:
    headers = "".join(f"{name}: {value}\r\n" for name, values in request.headers.items() for value in values)
    head = f"{request.method} {request.url} HTTP/1.1\r\nHost: {request.host}\r\n{headers}\r\n"
    return head.encode(errors="surrogateescape") + request.body
