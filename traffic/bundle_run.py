"""One bundle in a broker of its own, for a replay: real workers, one call after the other."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import msgspec

from tyk.call import REPLAYED
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.catalog.description import bundle_problems
from tykpy.broker.codes import GrpcCode
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.client.rpc import RpcClient
from tykpy.commands.objects import DISPATCH, DISPATCH_EVENT, bundle_hash
from tykpy.commands.private_broker import PrivateBroker
from tykpy.ipc.reads import REPLAY_VARIABLE, CallReads
from tykpy.traffic.errors import ReplayError
from tykpy.traffic.recording import CallRecord
from tykpy.traffic.tap import read_batch

CALL_SECONDS: Final = 60.0
_READ_EVERY: Final = 64
"""Calls after which hook times are fetched; the broker keeps far more."""
_NS_PER_US: Final = 1_000
_US_PER_S: Final = 1e6


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
        """Raises CommandError if there is no such bundle."""
        self._replays = TemporaryDirectory(prefix="tykpy-replay-")
        options = ("--threads", "1", "--timeout", f"{CALL_SECONDS:.0f}s")
        self._broker = PrivateBroker([bundle], 1, options, {REPLAY_VARIABLE: self._replays.name})
        self.bundle = bundle.resolve()
        self.name = self.bundle.name
        self.hook_us: list[int | None] = []
        """How long the hook of each call ran, by the worker's account; None: it was not run."""
        self._fetched = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._replays)
            stack.enter_context(self._broker)
            self._grpc = stack.enter_context(GrpcClient(self._broker.address))
            self._admin = stack.enter_context(RpcClient(self._broker.folder / "admin.sock"))
            self.hooks: dict[str, dict[str, Any]] = self._described()
            self._admin.call("record_start", {})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, call: CallRecord) -> CallResult:
        """Repeat a recorded call."""
        number = str(len(self.hook_us) - self._fetched)
        reads = Path(self._replays.name, number)
        reads.write_bytes(msgspec.msgpack.encode(reads_of(call)))
        metadata = {**call.metadata, REPLAYED: number}
        try:
            if call.event:
                self._grpc.call(DISPATCH_EVENT, call.request, CALL_SECONDS, metadata)
                result = CallResult(None, GrpcCode.OK.name, "")
            else:
                result = CallResult(self._dispatch(call, metadata), GrpcCode.OK.name, "")
        except GrpcCallError as error:
            result = CallResult(None, error.code.name, error.message)
        reads.unlink()
        self._fetched -= 1
        if self._fetched <= -_READ_EVERY:
            self.fetch_times()
        return result

    def fetch_times(self) -> None:
        """Bring `hook_us` up to date."""
        while self._fetched < 0:
            batch = read_batch(self._admin)
            assert batch is not None
            times = [call.hook_ns for call in batch.calls] + [None] * batch.dropped
            self.hook_us += [None if time is None else time // _NS_PER_US for time in times]
            self._fetched += len(times)

    def root(self) -> Path:
        """Return the folder that has the copy of the bundle's files."""
        copy = self._broker.bundles / self.name
        return copy if copy.is_dir() else copy.parent

    def _dispatch(self, call: CallRecord, metadata: Mapping[str, str]) -> Object:
        obj = Object.FromString(call.request)
        recorded = obj.spec.get("bundle_hash")
        obj.spec["bundle_hash"] = bundle_hash(self.name)
        answer = Object.FromString(self._grpc.call(DISPATCH, obj.SerializeToString(), CALL_SECONDS, metadata))
        if recorded is None:
            answer.spec.pop("bundle_hash", None)
        else:
            answer.spec["bundle_hash"] = recorded
        return answer

    def _described(self) -> dict[str, dict[str, Any]]:
        """Return the hooks by name. Raises ReplayError if the bundle cannot be loaded."""
        found = self._admin.call("hooks")
        broken = [bundle for bundle in found if bundle["state"] != "loaded"]
        problems = [next(bundle_problems(bundle), bundle.get("why")) for bundle in broken]
        if problems or not found:
            raise ReplayError(f"{self.bundle} cannot be loaded: {problems[0] if problems else 'no hooks in it'}")
        return {hook["name"]: hook for bundle in found for hook in bundle["hooks"]}


def reads_of(call: CallRecord) -> CallReads:
    """Return what a call reads in a replay: as recorded, and the time when it was taken if it did not ask for it."""
    times = call.reads.times or [call.time - call.dispatch_us / _US_PER_S]
    return msgspec.structs.replace(call.reads, times=times)
