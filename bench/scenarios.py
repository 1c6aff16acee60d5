"""The built-in scenarios, and the user's own hook as one."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.errors import BenchError
from tykpy.commands.objects import CallDescription, build_object, bundle_hash, read_object

KIB: Final = 1024
MIB: Final = 1024 * KIB
BUNDLES: Final = Path(__file__).parent / "bundles"
DEFAULT: Final = "header"
ALL: Final = "all"

_ORDER: Final = {"customer": 4711, "items": [{"sku": "A-100", "count": 2}], "note": "ring twice"}
_JWT_SECRET: Final = b"a secret of the benchmark, and of no use elsewhere"
_JWT_EXPIRY: Final = 4_102_444_800
"""Seconds since 1970: the first day of 2100."""
_MEMBERS: Final = 100
"""Number of access rights, of metadata entries and of OAuth keys of a big session."""
_HEADERS: Final = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Content-Type", "application/json"),
    ("Priority", "u=1"),
    ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Request-Id", "7b0c5b0e-6e1f-4b0e-9a55-3a1f7f0c2d11"),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One hook call. `streams` and `body_sizes` are measured unless the user says otherwise."""

    name: str
    build: Callable[[int | None], Object]
    """Builds the object with a body of so many bytes, or with the scenario's own body."""
    is_right: Callable[[Object], bool]
    """Returns whether this is the right answer."""
    files: tuple[Path, ...] = (BUNDLES / "bench_hooks.py",)
    """Folders or files of the bundle, which are copied into the broker's folder of bundles."""
    streams: int = 64
    body_sizes: tuple[int | None, ...] = (None,)
    messages: Sequence[bytes] = ()
    """Serialized objects to send in turn, whatever is answered, instead of the one that is built."""
    note: str = ""
    """What the user should know before the measurement."""


def _json_body(size: int | None) -> bytes:
    body = json.dumps(_ORDER).encode()
    missing = (size or 0) - len(body)
    return body if missing <= 0 else json.dumps(_ORDER | {"note": _ORDER["note"] + "." * missing}).encode()  # type: ignore[operator]


def _binary_body(size: int | None) -> bytes:
    # Not UTF-8, as an upload: the gateway then sends it once, in `raw_body`.
    return b"\xff" * (size or KIB)


def _object(
    hook: str, body: bytes, hook_type: str = "Post", *, headers: tuple[tuple[str, str], ...] = (),
    bundle: str = "bench_hooks",
) -> Object:  # fmt: skip
    description = CallDescription(
        hook, hook_type, bundle, method="POST", url="http://api.example.com/orders/v2/customers/47110?currency=EUR",
        headers=(*_HEADERS, *headers, ("Content-Length", str(len(body)))), body=body,
        spec={"APIID": "9b3f4f1c2d0e4a7c8a5d6e7f80912a3b", "OrgID": "5e9d9544a1dcd60001d0ed20"},
    )  # fmt: skip
    return build_object(description)


def _has_header(name: str, value: str) -> Callable[[Object], bool]:
    return lambda answer: answer.request.set_headers.get(name) == value


def _calls(hook: str, **settings: Any) -> Callable[[int | None], Object]:
    return lambda size: _object(hook, _json_body(size), **settings)


def _jwt_object(size: int | None) -> Object:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "customer-4711", "exp": _JWT_EXPIRY, "scope": "orders:write"})
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.new(_JWT_SECRET, signed, hashlib.sha256).digest()).rstrip(b"=")
    token = f"Bearer {signed.decode()}.{signature.decode()}"
    return _object("bench_jwt", _json_body(size), "CustomKeyCheck", headers=(("Authorization", token),))


def _session_object(size: int | None) -> Object:
    obj = _object("bench_session", _json_body(size), "PostKeyAuth")
    session = obj.session
    session.alias, session.rate, session.per, session.org_id = "customer-4711", 1000.0, 1.0, "5e9d9544a1dcd60001d0ed20"
    for number in range(_MEMBERS):
        api_id = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
        definition = session.access_rights[api_id]
        definition.api_id, definition.api_name = api_id, f"API number {number}"
        definition.versions.append("Default")
        definition.allowed_urls.add(url=f"/orders/{number}/.*", methods=["GET", "POST", "PUT"])
        session.metadata[f"key-{number}"] = obj.metadata[f"key-{number}"] = f"a value of some length {number}"
        session.oauth_keys[api_id] = api_id[::-1]
    return obj


def _chain_is_right(answer: Object) -> bool:
    return all(f"X-Bench-{number}" in answer.request.set_headers for number in range(1, 6))


_IS_MARKED: Final = _has_header("X-Bench", "1")
_SIZES: Final = (KIB, 16 * KIB, 128 * KIB, MIB, 4 * MIB)
_LIST: Final = (
    Scenario("header", _calls("bench_header"), _IS_MARKED),
    Scenario("jwt", _jwt_object, lambda answer: answer.session.alias == "customer-4711"),
    Scenario("json", _calls("bench_json"), lambda answer: json.loads(answer.request.raw_body)["total"] == 2),
    Scenario("cpu", _calls("bench_cpu"), _IS_MARKED, streams=32),
    Scenario("wait", _calls("bench_wait"), _IS_MARKED, streams=256),
    Scenario("wait-async", _calls("bench_wait_async"), _IS_MARKED, streams=256),
    Scenario("chain", _calls("*", bundle="bench_chain"), _chain_is_right, (BUNDLES / "bench_chain.py",)),
    Scenario(
        "body", lambda size: _object("bench_header", _binary_body(size)), _IS_MARKED, streams=8, body_sizes=_SIZES
    ),
    Scenario("session", _session_object, _has_header("X-Bench", str(_MEMBERS))),
)

BUILT_IN: Final[dict[str, Scenario]] = {scenario.name: scenario for scenario in _LIST}
"""What each does is said in docs/bench.md."""


def own_scenario(
    bundle: Path, hook: str | None, hook_type: str = "Pre", object_file: Path | None = None, *, needs_files: bool
) -> Scenario:
    """Return the user's hook as a scenario; raises BenchError or CommandError if something is missing.

    `bundle` is a folder with a manifest, a ZIP or a .py file; for a running broker only its name counts.
    """
    if needs_files and not bundle.exists():
        raise BenchError(f"--bundle {bundle}: no such folder or file")
    obj = _own_object(hook, hook_type, object_file)
    obj.spec["bundle_hash"] = bundle_hash(bundle.resolve().name if needs_files else bundle.name)

    def build(size: int | None) -> Object:
        if size is None:
            return obj
        body = b"x" * size
        made = Object()
        made.CopyFrom(obj)
        made.request.raw_body, made.request.body = body, body.decode()
        return made

    return Scenario(obj.hook_name, build, lambda _: True, (bundle,) if needs_files else ())


def _own_object(hook: str | None, hook_type: str, object_file: Path | None) -> Object:
    if object_file is None:
        if hook is None:
            raise BenchError("--bundle needs --hook NAME, or --object FILE with a whole object")
        return build_object(CallDescription(hook, hook_type, method="POST", body=_json_body(None)))
    obj = read_object(object_file)
    if hook is not None:
        obj.hook_name = hook
    if not obj.hook_name:
        raise BenchError(f"{object_file} has no hook_name: give it, or --hook NAME")
    return obj
