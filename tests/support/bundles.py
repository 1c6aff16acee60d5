"""Writes bundles for tests, and runs hooks of them through a real `HookDispatcher`."""

import asyncio
import hashlib
import json
import zipfile
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgpack

from tests.support.maps import from_map
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.frame import Kind, Packed, pack_frame, unpack_frame
from tykpy.workers.dispatch.prepare import HookDispatcher
from tykpy.workers.objects.msgpack_codec import to_map

IMPORTS = "from tyk.decorators import *; from tyk.decorators import Response\n"


def md5(name: str) -> str:
    """Return the hash by which a gateway names a bundle."""
    return hashlib.md5(name.encode()).hexdigest()


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """Write files below a folder, their text dedented."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def manifest(files: list[str], **middleware: Any) -> str:
    """Return a manifest for `files`."""
    middleware.setdefault("driver", "grpc")
    return json.dumps({"file_list": files, "custom_middleware": middleware})


def write_bundle(folder: Path, files: dict[str, str], **middleware: Any) -> Path:
    """Write a folder bundle, with the decorators imported in `middleware.py`."""
    files = {name: IMPORTS + dedent(text) if name == "middleware.py" else text for name, text in files.items()}
    return write_files(folder, {**files, "manifest.json": manifest(list(files), **middleware)})


def write_zip(path: Path, files: dict[str, str], **middleware: Any) -> Path:
    """Write a ZIP bundle."""
    files = {name: IMPORTS + dedent(text) if name == "middleware.py" else dedent(text) for name, text in files.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in {**files, "manifest.json": manifest(list(files), **middleware)}.items():
            opened.writestr(name, text)
    return path


class Served:
    """Serves the bundles of one folder."""

    def __init__(
        self, folder: Path, unpacked: Path, public_key: PublicKey | None = None, kind: Kind = Kind.OBJECT
    ) -> None:
        self.folder = folder
        self._new_store = partial(BundleStore, [folder], unpacked, public_key)
        self.kind = kind
        """How `run` sends objects: as protobuf, or as a MessagePack map for OBJECT_MAP."""
        self._load()

    def _load(self) -> None:
        self.store = self._new_store()
        self.store.load_all()
        self.dispatcher = HookDispatcher(self.store)

    def reload(self) -> None:
        """Load everything anew, as a new worker does."""
        self.close()
        self._load()

    def close(self) -> None:
        """Forget the bundles' modules."""
        for bundle in self.store.loaded():
            bundle.close()

    def run(self, subject: Object) -> Object:
        """Dispatch an object and return the one that comes back. Raises WorkerError."""
        if self.kind == Kind.OBJECT:
            payload = pack_frame(Kind.OBJECT, None, subject.SerializeToString())
            return Object.FromString(self.frame(payload).body)
        answer = self.frame(pack_frame(Kind.OBJECT_MAP, None, msgpack.packb(to_map(subject))))
        assert answer.kind == Kind.OBJECT_MAP
        return from_map(Object, msgpack.unpackb(answer.body))

    def frame(self, payload: Packed) -> Any:
        """Dispatch a frame and return the answer's."""
        invocation = self.dispatcher.prepare(payload)
        if invocation.is_async:
            return unpack_frame(asyncio.run(invocation.run_async()))
        return unpack_frame(invocation.run())


def subject(hook_name: str, bundle: str = "foo", hook_type: str = "Pre", **fields: Any) -> Object:
    """Return an object as a gateway sends it; `bundle` is the bundle's name ("": none)."""
    request = {
        "headers": {"Host": "example.com", "X-One": "1"},
        "url": "/path?b=2&a=1",
        "params": {"a": "1", "b": "2"},
        "method": "GET",
        "request_uri": "/path?b=2&a=1",
        "scheme": "http",
        "return_overrides": {"response_code": -1},
        **fields.pop("request", {}),
    }
    spec = {"OrgID": "org", "APIID": "api", "bundle_hash": md5(bundle), **fields.pop("spec", {})}
    return Object(hook_type=hook_type, hook_name=hook_name, request=request, spec=spec, **fields)
