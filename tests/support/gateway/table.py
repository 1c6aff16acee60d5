"""The fixtures of the compatibility table: a real broker, a gateway, a Redis, and bundles for each test."""

import gzip
import hashlib
import itertools
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from textwrap import dedent
from typing import Any, Final, NamedTuple, TypeAlias

import redis

from tests.support.broker import RunningBroker
from tests.support.bundles import md5
from tests.support.gateway.gateway import Api, Canned, RunningGateway, with_access
from tests.support.gateway.tyk import any_gateway
from tests.support.peers.redis_server import RedisServer, running_redis

SOURCES: Final = Path(__file__).parents[2] / "bundles"
LARGE: Final = 100 * 1024 * 1024
"""The raised limit on messages, in bytes."""
ORG: Final = "an-org"
_NUMBERS: Final = itertools.count(1)

Files: TypeAlias = Mapping[str, str | bytes]
HookList: TypeAlias = list[str | dict[str, Any]]


class Table:
    """A broker and a gateway that share a folder of bundles."""

    def __init__(self, folder: Path, broker: RunningBroker, gateway: RunningGateway, keys: RedisServer) -> None:
        self.folder = folder
        self.broker = broker
        self.gateway = gateway
        self._keys = keys

    def api(
        self,
        files: str | Files | None,
        *,
        hooks: Mapping[str, Any] | None = None,
        bundle: str = "",
        gateway: RunningGateway | None = None,
        definition: dict[str, Any] | None = None,
        **middleware: Any,
    ) -> Api:
        """Load an API whose hooks come from a bundle: the files of tests/bundles/NAME, or those given.

        Without files the API uses `bundle`, which is there, or none. `hooks` and `middleware` are the
        manifest's, with hooks by their names; `definition` is more of the API's definition.
        """
        number = next(_NUMBERS)
        if files is not None:
            sources = source_files(files) if isinstance(files, str) else files
            listed = {**(hooks or {}), **middleware}
            # A broker that knows the content already does not load it again.
            bundle = bundle or f"bundle-{md5(repr((sources, listed)))}.zip"
            write_bundle(self.folder / bundle, sources, **listed)
        path = f"/api-{number}/"
        own = {"api_id": f"api-{number}", "org_id": ORG, "listen_path": path, "custom_middleware_bundle": bundle}
        described = with_access({**own, **(definition or {})}, {**(hooks or {}), **middleware})
        return (gateway or self.gateway).add_api(described)

    @contextmanager
    def redis(self) -> Iterator["redis.Redis"]:
        """Return a client of the Redis that holds the gateway's sessions."""
        with self._keys.client() as client:
            yield client

    def session(self, key: str) -> Any:
        """Return what is stored for a key."""
        return self.gateway.session(key)

    def store_session(self, key: str, session: dict[str, Any]) -> None:
        """Store a session, as Tyk's API for keys would."""
        self.gateway.store_session(key, session)


def source_files(name: str) -> dict[str, bytes]:
    """Return the files of a folder below tests/bundles, `middleware.py` first."""
    folder = SOURCES / name
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = sorted((str(path.relative_to(folder)) for path in paths), key=lambda name: (name != "middleware.py", name))
    return {name: (folder / name).read_bytes() for name in names}


def write_bundle(path: Path, files: Files, *, checksum: str = "", **middleware: Any) -> Path:
    """Write a ZIP with a manifest that lists all files, as `tyk bundle build` does."""
    contents = {name: dedent(text).encode() if isinstance(text, str) else text for name, text in files.items()}
    hooks = {key: value if key == "driver" else _entries(value) for key, value in middleware.items()}
    manifest = {
        "file_list": list(contents),
        "custom_middleware": {"driver": "grpc", **hooks},
        "checksum": checksum or hashlib.md5(b"".join(contents.values())).hexdigest(),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for folder in sorted({str(parent) for name in contents for parent in PurePosixPath(name).parents[:-1]}):
            archive.mkdir(folder)
        for name, content in {**contents, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return path


def _entries(value: Any) -> Any:
    if isinstance(value, list):
        return [_entries(entry) for entry in value]
    return {"name": value} if isinstance(value, str) else value


def gateway_settings(keys: RedisServer) -> dict[str, Any]:
    """The configuration of all gateways of the table: raised limits, policies, and an upstream with special answers."""
    return {
        "redis_socket": str(keys.socket),
        "grpc_recv_max_size": LARGE,
        "grpc_send_max_size": LARGE,
        "policies": POLICIES,
        "org_id": ORG,
        "responses": RESPONSES,
    }


class Backend(NamedTuple):
    """What the gateways of the table share."""

    folder: Path
    broker: RunningBroker
    keys: RedisServer


@contextmanager
def running_backend(folder: Path) -> Iterator[Backend]:
    """Run a broker and a Redis for the time of a `with` block."""
    redis_folder = folder / "redis"
    redis_folder.mkdir()
    with ExitStack() as running:
        keys = running.enter_context(running_redis(redis_folder))
        flags = ("--redis", f"unix://{keys.socket}", "--log-level", "debug")
        yield Backend(folder, running.enter_context(RunningBroker(folder, *flags, workers=2)), keys)


@contextmanager
def running_table(backend: Backend, style: str = "classic") -> Iterator[Table]:
    """Run a gateway for the time of a `with` block; `style` is that of the API definitions of a real one."""
    folder, broker, keys = backend
    own = folder / style
    own.mkdir(exist_ok=True)
    shared = {"middleware_path": str(folder), "bundle_source": str(folder)}
    with any_gateway(own, broker.address, style=style, **shared, **gateway_settings(keys)) as gateway:
        yield Table(folder, broker, gateway, keys)


OF_POLICY: Final = "of-gold"
"""The API that the policy is for."""
RIGHTS: Final = {OF_POLICY: {"api_id": OF_POLICY, "api_name": OF_POLICY, "versions": ["Default"]}}
POLICIES: Final = {
    "gold": {"rate": 1000.0, "per": 1.0, "quota_max": 500, "quota_renewal_rate": 3600, "access_rights": RIGHTS},
}
RESPONSES: Final = {
    "/cookies": Canned(
        b"three cookies",
        headers=(("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Set-Cookie", "c=3"), ("X-Upstream", "yes")),
    ),
    "/utf8": Canned("grüße".encode(), headers=(("Content-Type", "text/plain; charset=utf-8"),)),
    "/binary": Canned(b"\xff\x00\xfe", status=201, headers=(("Content-Type", "application/octet-stream"),)),
    "/empty": Canned(status=204),
    "/gzip": Canned(
        gzip.compress(b"compressed", mtime=0), headers=(("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))
    ),
    "/large": Canned(b"x" * (5 * 1024 * 1024)),
}
"""The upstream's answers, by path."""
