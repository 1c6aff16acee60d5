"""One bundle in a broker of its own, for a replay: real workers, one call after the other."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.codes import GrpcCode
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.client.rpc import RpcClient
from tykpy.commands.bound import spawn
from tykpy.commands.objects import DISPATCH, DISPATCH_EVENT, bundle_hash
from tykpy.traffic.errors import ReplayError
from tykpy.traffic.recording import CallRecord

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
CALL_SECONDS: Final = 60.0
_READ_EVERY: Final = 64
"""Calls after which hook times are fetched; the broker keeps far more."""
_NS_PER_US: Final = 1_000


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a bundle answered to one call."""

    answer: Object | None
    """None for an event, and if the call failed."""
    code: str
    message: str


class BundleRun:
    """A broker with one worker and one bundle, from entering to leaving."""

    def __init__(self, bundle: Path) -> None:
        """Raises ReplayError if there is no such bundle."""
        if not bundle.exists():
            raise ReplayError(f"{bundle}: no such bundle; name a folder, a ZIP or a .py file")
        self.bundle = bundle.resolve()
        self.name = self.bundle.name
        self.hook_us: list[int | None] = []
        """How long the hook of each call ran, by the worker's account; None: it was not run."""
        self._fetched = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="tykpy-replay-"))
        try:
            self._start()
            self._grpc = GrpcClient(f"unix://{self._folder}/tyk.sock")
            self._admin = RpcClient(self._folder / "admin.sock")
            self.hooks: dict[str, dict[str, Any]] = self._described()
            self._admin.call("record_start", {})
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.close()
        self._admin.close()
        self._stop()

    def call(self, call: CallRecord) -> CallResult:
        """Repeat a recorded call."""
        try:
            if call.event:
                self._grpc.call(DISPATCH_EVENT, call.request, timeout=CALL_SECONDS)
                result = CallResult(None, GrpcCode.OK.name, "")
            else:
                result = CallResult(self._dispatch(call), GrpcCode.OK.name, "")
        except GrpcCallError as error:
            result = CallResult(None, error.code.name, error.message)
        self._fetched -= 1
        if self._fetched <= -_READ_EVERY:
            self.fetch_times()
        return result

    def fetch_times(self) -> None:
        """Bring `hook_us` up to date."""
        while self._fetched < 0:
            batch = self._admin.call("record_read")
            times = [call[-1] for call in batch["calls"]] + [None] * batch["dropped"]
            self.hook_us += [None if time is None else time // _NS_PER_US for time in times]
            self._fetched += len(times)

    def root(self) -> Path:
        """Return the folder that has the copy of the bundle's files."""
        copy = self._folder / "bundles" / self.name
        return copy if copy.is_dir() else copy.parent

    def _dispatch(self, call: CallRecord) -> Object:
        obj = Object.FromString(call.request)
        recorded = obj.spec.get("bundle_hash")
        obj.spec["bundle_hash"] = bundle_hash(self.name)
        answer = Object.FromString(self._grpc.call(DISPATCH, obj.SerializeToString(), timeout=CALL_SECONDS))
        if recorded is None:
            answer.spec.pop("bundle_hash", None)
        else:
            answer.spec["bundle_hash"] = recorded
        return answer

    def _start(self) -> None:
        bundles = self._folder / "bundles"
        if self.bundle.is_dir():
            shutil.copytree(self.bundle, bundles / self.name, symlinks=True)
        else:
            bundles.mkdir()
            shutil.copy(self.bundle, bundles / self.name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self._log.open("wb") as log:
            notify.bind(str(self._folder / "notify"))
            self._process = spawn(
                "tykpy.cli", "broker", "--workers", "1", "--threads", "1", "--timeout", f"{CALL_SECONDS:.0f}s",
                "--bundles", str(bundles), "--runtime-dir", str(self._folder),
                env={**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify")},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            self._wait_until_ready(notify)

    def _wait_until_ready(self, notify: socket.socket) -> None:
        deadline = monotonic() + START_SECONDS
        notify.settimeout(0.1)
        while self._process.poll() is None and monotonic() < deadline:
            try:
                if b"READY=1" in notify.recv(4096):
                    return
            except TimeoutError:
                continue
        raise ReplayError(f"no broker starts for {self.bundle}; its log:\n{self._log.read_text(errors='replace')}")

    def _described(self) -> dict[str, dict[str, Any]]:
        """Return the hooks by name. Raises ReplayError if the bundle cannot be loaded."""
        found = self._admin.call("hooks")
        problems = [bundle["error"] or bundle.get("why") for bundle in found if bundle["state"] != "loaded"]
        if problems or not found:
            raise ReplayError(f"{self.bundle} cannot be loaded: {problems[0] if problems else 'no hooks in it'}")
        return {hook["name"]: hook for bundle in found for hook in bundle["hooks"]}

    def _stop(self) -> None:
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "log"
