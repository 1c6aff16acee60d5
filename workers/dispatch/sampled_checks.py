"""Check some calls of every hook for changes that the gateway will ignore, and warn about them in the log.

A check costs more than a short hook, so only a hook's first calls and a few of the later ones are checked; other calls
pay for a subtraction. Each kind of change is reported once per hook, worker and interval.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Final

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import ResponseObject
from tyk.request import canonical_header
from tykpy.bundles.shapes import complete_reply
from tykpy.telemetry.log import Log
from tykpy.workers.dispatch import ignored_changes
from tykpy.workers.dispatch.ignored_changes import MAX_CODE, MIN_CODE, Ignored
from tykpy.workers.objects.go_urls import is_request_uri, parse_query, split_query

if TYPE_CHECKING:
    from tykpy.bundles.hook import Hook

FIRST_CALLS: Final = 32
"""The first calls of a hook, which are all checked."""
LATER_CALLS: Final = 256
"""One in this many later calls is checked. A check costs as much as two short dispatches: less than one percent."""
REPEAT_AFTER_S: Final = 600.0

_RESPONSE: Final = int(HookType.Response)
_AUTH: Final = int(HookType.CustomKeyCheck)
_log: Final = Log("tykpy.worker")


def begin(hook: "Hook", subject: Object) -> Object:
    """Return a copy of the object before the hook, and set how many calls pass until the next check."""
    hook.looks += 1
    hook.unwatched_calls = 1 if hook.looks < FIRST_CALLS else LATER_CALLS
    before = Object()
    before.CopyFrom(subject)
    complete_reply(before)
    return before


def end(hook: "Hook", before: Object, after: Object, clock: Callable[[], float] = time.monotonic) -> None:
    """Warn about changes that the gateway will ignore, unless that kind has been reported recently."""
    for found in chain(changes_ignored(before, after), _token_never_left(hook, after)):
        now = clock()
        if now < hook.silent_until.get(found.rule, now):
            continue
        hook.silent_until[found.rule] = now + REPEAT_AFTER_S
        _log.warning("hook %s of bundle %s (%s:%d): %s", hook.name, hook.bundle, hook.file, hook.line, found)


def changes_ignored(before: Object, after: Object) -> Iterator[Ignored]:
    """Yield the kinds of changes from `before` to `after` that the gateway will ignore."""
    if after.hook_type == _RESPONSE:
        if after.request != before.request:
            yield ignored_changes.RESPONSE_REQUEST
        yield from _in_response(before.response, after.response)
    else:
        yield from _in_request(before.request, after.request)
    if after.hook_type != _AUTH and after.session != before.session:
        yield ignored_changes.SESSION


def _token_never_left(hook: "Hook", after: Object) -> Iterator[Ignored]:
    """Yield a warning if an auth hook left no token in any check. A single call may rightly refuse a wrong key."""
    if after.hook_type != _AUTH or hook.has_left_token:
        return
    hook.has_left_token = bool(after.session.metadata.get("token"))
    decides = hook.has_left_token or after.request.return_overrides.response_code > 0
    if hook.looks >= FIRST_CALLS and not decides:
        yield ignored_changes.NO_TOKEN


def _in_request(before: MiniRequestObject, after: MiniRequestObject) -> Iterator[Ignored]:
    yield from _in_url(before, after)
    if 0 < (code := after.return_overrides.response_code) < MIN_CODE or code > MAX_CODE:
        yield ignored_changes.OVERRIDE_CODE
    if any(canonical_header(key) == "Host" for key in after.set_headers):
        yield ignored_changes.HOST
    if after.body != before.body and after.body.encode() != after.raw_body:
        yield ignored_changes.REQUEST_BODY
    if dict(after.headers) != dict(before.headers) and not _headers_follow(before, after):
        yield ignored_changes.REQUEST_HEADERS
    if dict(after.params) != dict(before.params) and not _params_follow(before, after):
        yield ignored_changes.REQUEST_PARAMS
    if after.scheme != before.scheme or after.request_uri != before.request_uri:
        yield ignored_changes.REQUEST_FIXED


def _in_url(before: MiniRequestObject, after: MiniRequestObject) -> Iterator[Ignored]:
    """Yield problems of the URL. If the gateway sent an absolute one, the API rewrites it."""
    if not is_request_uri(after.url):
        yield ignored_changes.URL_EMPTY
    elif before.url[:1] not in ("", "/"):
        if after.url[:1] == "/":
            yield ignored_changes.REWRITTEN_PATH
        if after.add_params or after.delete_params:
            yield ignored_changes.REWRITTEN_PARAMS
    elif after.url != before.url and _changes_query(before, after):
        yield ignored_changes.URL_QUERY


def _in_response(before: ResponseObject, after: ResponseObject) -> Iterator[Ignored]:
    if after.status_code == 0:
        yield ignored_changes.RESPONSE_STATUS
    if after.body != before.body and after.body.encode() != after.raw_body:
        yield ignored_changes.RESPONSE_BODY
    if dict(after.headers) != dict(before.headers):
        came = {header.key for header in before.multivalue_headers}
        if any(header.key not in after.headers and header.key not in came for header in after.multivalue_headers):
            yield ignored_changes.RESPONSE_HEADERS


def _changes_query(before: MiniRequestObject, after: MiniRequestObject) -> bool:
    """Whether the query in the new URL differs from the one that the gateway will send.

    A new path without a query is fine: the gateway keeps the query.
    """
    (old_path, old_query), (path, query) = split_query(before.url), split_query(after.url)
    if not query and path != old_path:
        return False
    came = parse_query(old_query)
    sent = {key: values for key, values in came.items() if key not in after.delete_params}
    sent |= {key: [value] for key, value in after.add_params.items()}
    return parse_query(query) not in (came, sent)


def _headers_follow(before: MiniRequestObject, after: MiniRequestObject) -> bool:
    """Whether every change in `headers` was also made where the gateway reads it."""
    added = {canonical_header(key): value for key, value in after.set_headers.items()}
    deleted = {canonical_header(key) for key in after.delete_headers}
    return _follows(before.headers, after.headers, added, deleted, canonical_header)


def _params_follow(before: MiniRequestObject, after: MiniRequestObject) -> bool:
    return _follows(before.params, after.params, after.add_params, after.delete_params, str)


def _follows(
    before: Mapping[str, str],
    after: Mapping[str, str],
    added: Mapping[str, str],
    deleted: Container[str],
    spelled: Callable[[str], str],
) -> bool:
    changed = (key for key, value in after.items() if before.get(key) != value)
    gone = (key for key in before if key not in after)
    return all(added.get(spelled(key)) == after[key] for key in changed) and all(
        spelled(key) in deleted for key in gone
    )
