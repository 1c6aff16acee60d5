"""Record seeds for the fuzzers from real traffic: `python -m tests.fuzz.record`.

grpcio, h2load and the Go gateway (grpc-go) talk to a broker through a proxy that writes down what they send. The other
seeds are made by our own code and by the libraries that plugin authors use. Existing files are replaced.
"""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import msgpack

from tests.fuzz.big_messages import NOTE_SIZE, Do, Step, script
from tests.support.broker import PATIENCE, RunningBroker, running_broker
from tests.support.gateway.gateway import RunningGateway
from tests.support.gateway.table import gateway_settings
from tests.support.hooks import SOURCE
from tests.support.peers.http2_peer import Peer, data, message
from tests.support.peers.redis_server import running_redis
from tests.support.root import ROOT
from tests.unit.ipc.channel.ends import channel_pair, rings
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles.load_observer import LoadObserver
from tykpy.bundles.registry import BundleStore
from tykpy.commands.objects import CallDescription, build_object
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.frame import Kind, Status, pack_error, pack_frame
from tykpy.ipc.ring.layout import FLAG_ERROR, HEADER_SIZE, OWN_MEMORY, SPILL_PLACE, TAIL, RecordType
from tykpy.workers.objects.msgpack_codec import to_map

CORPUS: Final = Path(__file__).parent / "corpus"
MOST: Final = 4096
"""Bytes of a seed."""
CHUNK: Final = 65_536
PREFACE_END: Final = b"\r\n\r\nSM\r\n\r\n"


class Recorder:
    """A proxy at one Unix socket in front of another; `sent` is what the first client sent."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self._target = path, target
        self.sent = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                threading.Thread(target=self._copy, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._copy, args=(server, client, False), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, record: bool) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(CHUNK):
                if record:
                    self.sent += received
                sink.sendall(received)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Accept nothing more."""
        self._listener.close()


@contextlib.contextmanager
def recording(broker: RunningBroker, name: str) -> Iterator[Path]:
    """Give a socket to call; what is sent to it becomes a seed."""
    recorder = Recorder(broker.runtime / f"{name}.sock", broker.socket)
    try:
        yield recorder.path
    finally:
        recorder.close()
    _write("http2_start", name, recorder.sent)
    _write("http2", name, recorder.sent.partition(PREFACE_END)[2])


def record_grpcio(broker: RunningBroker) -> None:
    """Record three calls of grpcio, one of them with a deadline and metadata."""
    body = _object().SerializeToString()
    with recording(broker, "grpcio") as path, grpc.insecure_channel(f"unix:{path}") as channel:
        method = channel.unary_unary("/coprocess.Dispatcher/Dispatch")
        method(body, timeout=PATIENCE)
        method(body, timeout=PATIENCE, metadata=[("traceparent", "00-1-2-01")])
        method(body, timeout=PATIENCE, compression=grpc.Compression.Gzip)


def record_h2load(broker: RunningBroker, folder: Path) -> None:
    """Record a few calls of h2load on four streams."""
    body = folder / "body"
    body.write_bytes(message(_object().SerializeToString()))
    with recording(broker, "h2load") as path:
        command = ["h2load", "-n", "6", "-c", "1", "-m", "4", "-d", str(body), f"--base-uri=unix:{path}"]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        target = "http://localhost/coprocess.Dispatcher/Dispatch"
        subprocess.run([*command, *headers, target], check=True, capture_output=True, timeout=PATIENCE)


def record_grpc_go(broker: RunningBroker, folder: Path) -> None:
    """Record the gateway in Go with one hook."""
    with recording(broker, "grpc-go") as path, running_redis(folder) as keys:
        place = folder / "gateway"
        place.mkdir()
        with RunningGateway(place, f"unix://{path}", **gateway_settings(keys)) as gateway:
            middleware = {"driver": "grpc", "pre": [{"name": "add_header"}]}
            definition = {"api_id": "a", "org_id": "o", "listen_path": "/a/", "custom_middleware": middleware}
            api = gateway.add_api(definition)
            for _ in range(3):
                api.gateway.send("GET", "/a/x")


def make_others(folder: Path) -> None:
    """Make seeds for protocols without a foreign peer, or whose peers are libraries."""
    obj = _object()
    encoded = obj.SerializeToString()
    mapped = msgpack.packb(to_map(obj))
    _write("protobuf", "object", encoded)
    obj.request.raw_body, obj.request.body = b"raw body", "the body"
    _write("borrowed", "object", obj.SerializeToString())
    _write("msgpack_object", "object", mapped)
    _write("msgpack_object", "event", msgpack.packb({"payload": "{}"}))
    calls = msgpack.packb([0, 1, "dispatch", [to_map(obj), {"timeout": 1.0}]]) + msgpack.packb([2, "ping", []])
    _write("msgpack_rpc", "calls", calls)
    _write("grpc_messages", "two", message(encoded[:400]) + message(b""))
    peer = Peer(handshake=False)
    blocks = [peer.block(), peer.block(("traceparent", "00-1-2-01")), peer.block(("grpc-timeout", "1S"))]
    _write("hpack", "table", b"".join(bytes([len(block)]) + block for block in blocks))
    peer.encoder.header_table_size = 0
    plain = peer.block()
    _write("hpack", "no-table", b"\0" + bytes([len(plain)]) + plain)
    _write("http2", "echo", Peer().headers(1) + data(1, message(b"hello")))
    answer, _ = pack_frame(Kind.OBJECT, None, encoded)
    _write("answer", "object", answer)
    _write("answer", "error", pack_error(Status.INVALID, "x")[0])
    _write("ring", "records", _ring())
    _write("control", "messages", _control(folder))


def record_big_messages() -> None:
    """Record what broker and worker write for big messages, in bulk memory and in memory of their own."""
    encoded = _object().SerializeToString()
    head = msgpack.packb([Kind.OBJECT, None, None])
    big = (head, encoded)
    with channel_pair() as (broker, worker):
        stored = broker.bodies.put(encoded)
        assert stored is not None
        broker.send(1, (head, stored), 0)
        broker._send_big(RecordType.SPILL_REQ, 2, 0, pack_frame(Kind.OBJECT, None, encoded))
        written = Step(Do.WRITE, stored.offset, encoded)
        records = _records(worker._pop, worker._parts.spills._socket, 2)
        _write("bodies", "requests", script([written, *records]))
    with channel_pair() as (broker, worker):
        worker._publish_big(1, big, False, 0)
        worker._publish_big(2, big, True, 0)
        _, memory = worker._oversize_out.push(RecordType.SPILL_RESP, 3, 0, b"", encoded)
        written = Step(Do.WRITE, 0, worker._parts.bulk_out._memory[: 2 * len(encoded)])
        records = _records(broker._pop, broker._parts.spills._socket, 3)
        _write("bulk", "answers", script([written, *records]))
        os.close(memory)


def _records(pop: Callable[[], tuple[int, int, int, bytes]], spills: socket.socket, count: int) -> Iterator[Step]:
    """Return the steps that lead to these records."""
    for _ in range(count):
        kind, seq, _, payload = pop()
        size, offset = SPILL_PLACE.unpack_from(payload)
        if offset == OWN_MEMORY:
            note, (descriptor,), _, _ = socket.recv_fds(spills, NOTE_SIZE, 1)
            yield Step(Do.MEMORY, size, note + os.pread(descriptor, size, 0))
            os.close(descriptor)
        yield Step(Do.ERROR_RECORD if kind & FLAG_ERROR else Do.RECORD, seq, payload)


def make_bundles(folder: Path) -> None:
    """Make seeds of the example bundle: its manifest, and ZIPs."""
    bundle = ROOT / "examples" / "bundles" / "example"
    manifest = (bundle / "manifest.json").read_bytes()
    _write("manifest", "example", manifest)
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", method) as opened:
            opened.writestr("manifest.json", manifest)
            opened.writestr("lib/", b"")
            opened.writestr("lib/x.py", b"X = 1\n" * 20)
        _write("archive", name, path.read_bytes())


def _ring() -> bytes:
    with rings() as both:
        for seq in range(1, 12):
            both.producer.push(1, seq, seq * 7, bytes([seq]) * (seq * 40))
            both.consumer.pop()
            both.consumer.commit()
        first = both.a_writable.memory[HEADER_SIZE : HEADER_SIZE + 2000]
        return int(both.a_writable.words[TAIL]).to_bytes(4, "little") + first


def _control(folder: Path) -> bytes:
    here, there = socket.socketpair()
    worker = ControlSocket(here, blocking=False)
    bundles = ROOT / "examples" / "bundles"
    BundleStore([bundles], folder / "unpacked", observer=LoadObserver(worker.send)).load_all()
    worker.send("ready")
    worker.send("event", {"name": "e", "id": "1", "depth": 0, "document": "{}"})
    with there:
        sent = there.recv(MOST)
    worker.close()
    return sent


def _object() -> Object:
    return build_object(CallDescription("add_header", bundle="hooks", url="/a?b=c", headers=[("X-A", "1")]))


def _write(target: str, name: str, content: bytes) -> None:
    place = CORPUS / target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content[:MOST])


def main() -> None:
    """Record all seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_broker(folder, files={"hooks.py": SOURCE}) as broker:
            record_grpcio(broker)
            record_h2load(broker, folder)
            record_grpc_go(broker, folder)
        make_others(folder)
        make_bundles(folder)
    record_big_messages()
    print(f"{len(list(CORPUS.glob('*/*')))} files in {CORPUS}")


if __name__ == "__main__":
    main()
