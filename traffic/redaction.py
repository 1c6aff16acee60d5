"""Replace secrets in recorded calls, before anything is written.

A secret gets a pseudonym that is the same for equal values of one recording, so that a replay still tells clients
apart; its key exists only while `tykpy record` runs. Where a secret's text appears again in the same call, in
whichever field, it is replaced there as well.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote_plus

from google.protobuf.message import Message

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.ipc.reads import CallReads, StoreRead
from tykpy.traffic.errors import RedactionError

DEFAULT: Final = (
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "apikey", "x-auth-token",
    "x-access-token", "x-csrf-token", "x-amz-security-token", "x-forwarded-client-cert", "access_token", "api_key",
    "client_secret", "password", "token",
)  # fmt: skip
"""Headers, query parameters, form fields and entries of metadata that are always redacted, in any case."""
PREFIX: Final = "redacted-"
MIN_REPEATED: Final = 6
"""Shorter secrets are replaced in their own place only: everywhere else they would hit innocent text."""
_STEP: Final = re.compile(r"\.([^.\[\]*]+)|\[(\d+)\]|(\[\*\]|\.\*)")
_JSON: Final = re.compile(rb"\s*[\[{\"]")

_SCHEMES: Final = frozenset({"apikey", "basic", "bearer", "digest", "token"})

_ValueT = TypeVar("_ValueT", bytes, bytes | bool | None)
Step = str | int | None
"""A name, an index, or None for all members."""


class Redactor:
    """Redacts the calls of one recording."""

    def __init__(self, redact: Iterable[str] = ()) -> None:
        """`redact`: names as in `DEFAULT`, and JSON paths such as `$.user.password` or `$.items[*].card`.

        Raises RedactionError for a path that is none.
        """
        given = tuple(redact)
        self.rules = (*DEFAULT, *given)
        self._names = frozenset(name.lower() for name in self.rules if not name.startswith("$"))
        self._paths = [_parse_path(path) for path in given if path.startswith("$")]
        self._key = secrets.token_bytes(32)

    def objects(
        self, *objects: Object, metadata: dict[str, str] | None = None, reads: CallReads | None = None
    ) -> Callable[[str], str]:
        """Redact one call in place: its objects (request and answer), its gRPC metadata, and what its hook read.

        Returns a function that replaces the same secrets in other texts of the call.
        """
        found: dict[str, str] = {}
        for obj in objects:
            self._maps(obj, found)
            self._session(obj, found)
            self._bodies(obj, found)
        replace = self._surroundings(metadata or {}, reads or CallReads(), found)
        for obj in objects:
            _rewrite(obj, replace)
        return replace

    def event(self, event: Event, metadata: dict[str, str] | None = None, reads: CallReads | None = None) -> None:
        """Redact an event in place: the request in it, what is named in its payload, and what its handler read."""
        found: dict[str, str] = {}
        try:
            payload = json.loads(event.payload)
        except ValueError:
            event.payload = PREFIX + "event"
        else:
            meta = payload.get("message", {}).get("Meta") if isinstance(payload, dict) else None
            if isinstance(meta, dict):
                for name in ("OriginatingRequest", "Key"):
                    if meta.get(name):
                        meta[name] = self._secret(str(meta[name]), found)
            self._named(payload, found)
            event.payload = json.dumps(payload)
        self._surroundings(metadata or {}, reads or CallReads(), found)

    def _surroundings(self, metadata: dict[str, str], reads: CallReads, found: dict[str, str]) -> Callable[[str], str]:
        """Redact values by their names, and whatever is in `found`; return a function that replaces all of that."""
        for name in metadata:
            if name in self._names:
                metadata[name] = self._secret(metadata[name], found)
        named = [StoreRead(read.key, read.uses, self._stored(read.key, read.value, found)) for read in reads.store]
        replace = _replacer({secret: name for secret, name in found.items() if len(secret) >= MIN_REPEATED})
        for name, value in metadata.items():
            metadata[name] = replace(value)
        reads.store = [StoreRead(replace(read.key), read.uses, _replaced(read.value, replace)) for read in named]
        return replace

    def _stored(self, key: str, value: bytes | bool | None, found: dict[str, str]) -> bytes | bool | None:
        if not isinstance(value, bytes):
            return value
        return (
            self._secret(_text(value), found).encode() if key.lower() in self._names else self._body(value, "", found)
        )

    # Each notes what it replaced in `found`, by the secret's text.

    def _maps(self, obj: Object, found: dict[str, str]) -> None:
        request, response = obj.request, obj.response
        for headers in (request.headers, request.set_headers, request.return_overrides.headers, response.headers):
            self._map(headers, found)
        for values in (request.params, request.add_params, request.extended_params, obj.metadata, obj.session.metadata):
            self._map(values, found)
        for header in response.multivalue_headers:
            if header.key.lower() in self._names:
                header.values[:] = [self._secret(value, found) for value in header.values]
        for name in ("url", "request_uri"):
            url: str = getattr(request, name)
            if "?" in url:
                setattr(request, name, self._url(url, found))

    def _map(self, values: Any, found: dict[str, str]) -> None:
        for name in [name for name in values if name.lower() in self._names and values[name]]:
            values[name] = self._secret(values[name], found)

    def _url(self, url: str, found: dict[str, str]) -> str:
        path, _, query = url.partition("?")
        return f"{path}?{self._form(query, found)}"

    def _form(self, form: str, found: dict[str, str]) -> str:
        """Replace values of named fields in `a=1&b=2`, and leave everything else as it is written."""

        def field(part: str) -> str:
            name, equals, value = part.partition("=")
            ((read, secret),) = parse_qsl(part, keep_blank_values=True) or [("", "")]
            if not value or read.lower() not in self._names:
                return part
            return name + equals + quote_plus(self._secret(secret, found))

        return "&".join(field(part) for part in form.split("&"))

    def _session(self, obj: Object, found: dict[str, str]) -> None:
        session = obj.session
        for message, name in (
            (session.basic_auth_data, "password"),
            (session.basic_auth_data, "hash"),
            (session.jwt_data, "secret"),
            (session, "hmac_secret"),
        ):
            value: str = getattr(message, name)
            if value:
                setattr(message, name, self._secret(value, found))
        for name in list(session.oauth_keys):
            session.oauth_keys[name] = self._secret(session.oauth_keys[name], found)

    def _bodies(self, obj: Object, found: dict[str, str]) -> None:
        request, response = obj.request, obj.response
        for message in (request, response):
            if message.raw_body:
                message.raw_body = self._body(message.raw_body, message.headers.get("Content-Type", ""), found)
            if message.body:
                message.body = self._body(
                    message.body.encode(), message.headers.get("Content-Type", ""), found
                ).decode()
        overrides = request.return_overrides
        if overrides.response_body:
            overrides.response_body = self._body(overrides.response_body.encode(), "", found).decode()

    def _body(self, body: bytes, content_type: str, found: dict[str, str]) -> bytes:
        """Redact JSON and forms. A body that claims to be JSON and is not cannot be searched: all of it goes."""
        if "form-urlencoded" in content_type:
            return self._form(body.decode(errors="replace"), found).encode()
        claims_json = "json" in content_type
        if not claims_json and not _JSON.match(body):
            return body
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return PREFIX.encode() + b"body" if claims_json and self._paths else body
        replaced = self._named(value, found)
        for path in self._paths:
            replaced += self._path(value, path, found)
        return _rewritten(body, replaced, value) if replaced else body

    # What changes a JSON value returns each member that it replaced, and by what.

    def _named(self, value: Any, found: dict[str, str]) -> list[tuple[Any, str]]:
        """Replace texts under the names that are always redacted, wherever they are in a JSON value."""
        replaced: list[tuple[Any, str]] = []
        waiting = [value]
        while waiting:
            members = waiting.pop()
            pairs: Iterable[tuple[Any, Any]] = ()
            if isinstance(members, dict):
                pairs = list(members.items())
            elif isinstance(members, list):
                pairs = list(enumerate(members))
            for name, member in pairs:
                if isinstance(member, dict | list):
                    waiting.append(member)
                elif isinstance(name, str) and name.lower() in self._names and member not in (None, "", True, False):
                    members[name] = self._secret(str(member), found)
                    replaced.append((member, members[name]))
        return replaced

    def _path(self, value: Any, path: Sequence[Step], found: dict[str, str]) -> list[tuple[Any, str]]:
        replaced: list[tuple[Any, str]] = []
        for members, name in _places(value, path):
            member = members[name]
            if member not in (None, ""):
                members[name] = self._secret(member if isinstance(member, str) else json.dumps(member), found)
                replaced.append((member, members[name]))
        return replaced

    def _secret(self, secret: str, found: dict[str, str]) -> str:
        """Return the pseudonym, and note it for the whole text and for its words, as in `id=1; key=2`.

        The scheme of an `Authorization` remains, since hooks look for it.
        """
        scheme, _, credentials = secret.partition(" ")
        if scheme.lower() in _SCHEMES and credentials:
            return f"{scheme} {self._secret(credentials, found)}"
        if secret.startswith(PREFIX):
            return secret
        pseudonym = found[secret] = self._pseudonym(secret)
        for word in re.split(r"[\s;,=]+", secret):
            if len(word) >= MIN_REPEATED and word != secret:
                found.setdefault(word, self._pseudonym(word))
        return pseudonym

    def _pseudonym(self, secret: str) -> str:
        digest = hmac.new(self._key, secret.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return PREFIX + digest.hexdigest()[:12]


def _parse_path(path: str) -> Sequence[Step]:
    steps: list[Step] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise RedactionError(f"{path}: not a path at {path[at:]!r}; write e.g. $.user.password or $.items[*].card")
        name, index, every = match.groups()
        steps.append(None if every else name if name is not None else int(index))
        at = match.end()
    if not steps:
        raise RedactionError(f"{path}: name something below the whole body, e.g. $.password")
    return steps


def _places(value: Any, path: Sequence[Step]) -> Iterator[tuple[Any, Any]]:
    """Yield each container and key (or index) that a path leads to."""
    step, rest = path[0], path[1:]
    keys: Iterable[Any] = ()
    if isinstance(value, dict):
        keys = list(value) if step is None else [step] if step in value else []
    elif isinstance(value, list):
        keys = range(len(value)) if step is None else [step] if isinstance(step, int) and step < len(value) else []
    for key in keys:
        if not rest:
            yield value, key
        else:
            yield from _places(value[key], rest)


def _rewritten(body: bytes, replaced: Iterable[tuple[Any, str]], value: Any) -> bytes:
    """Return JSON with the members replaced, which is `value` then: with its own spaces, since hooks may copy it.

    Where it writes them in another way than usual, or has a name twice, it is written anew.
    """
    text = body.decode(errors="replace")
    for member, name in sorted(replaced, key=lambda pair: -len(str(pair[0]))):
        for literal in {json.dumps(member), json.dumps(member, ensure_ascii=False)}:
            whole = rf"(?<![\w.+-]){re.escape(literal)}(?![\w.])"
            text = re.sub(whole, json.dumps(name).replace("\\", r"\\"), text)
    with suppress(ValueError):
        if json.loads(text, object_pairs_hook=_unique) == value:
            return text.encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is there twice")
    return members


def _replacer(found: dict[str, str]) -> Callable[[str], str]:
    """Return a function that replaces all secrets in a text, longer ones first."""
    if not found:
        return lambda text: text
    longest = sorted(found, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest)))
    return lambda text: pattern.sub(lambda match: found[match[0]], text)


def _rewrite(message: Message, replace: Callable[[str], str]) -> None:
    """Apply a function to every text in a message."""
    for field, value in message.ListFields():
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if entry:
            for key in list(value):
                if isinstance(value[key], Message):
                    _rewrite(value[key], replace)
                elif isinstance(value[key], str):
                    value[key] = replace(value[key])
        elif field.type == field.TYPE_MESSAGE:
            for member in value if field.is_repeated else (value,):
                _rewrite(member, replace)
        elif field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, replace(value))
        elif field.type == field.TYPE_STRING:
            value[:] = [replace(member) for member in value]
        elif field.type == field.TYPE_BYTES and not field.is_repeated:
            setattr(message, field.name, _replaced(value, replace))


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _replaced(value: _ValueT, replace: Callable[[str], str]) -> _ValueT:
    """Apply a function to bytes as if they were a text; return anything else as it is."""
    return replace(_text(value)).encode(errors="surrogateescape") if isinstance(value, bytes) else value
