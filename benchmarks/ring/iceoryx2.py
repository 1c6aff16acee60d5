"""iceoryx2 as a transport of `benchmarks.ring`: publish-subscribe through shared memory, with its events as doorbells.

It lacks wheels for some platforms, so it is measured only if it is installed: `pip install iceoryx2`. An event is
sent for each batch, and no end waits for one while there is something to receive.
"""

import ctypes
import os
import subprocess
import sys
from typing import Any, Final

import iceoryx2

from benchmarks.ring.transports import WINDOW, Transport

SAMPLE_BYTES: Final = 900
"""Fixed: what the benchmark sends."""
_BUFFER: Final = 2 * WINDOW
_JOIN_SECONDS: Final = 10.0
_THERE, _BACK = "there", "back"
_READY: Final = b"ready\n"


class Payload(ctypes.Structure):
    """One message."""

    _fields_ = (("data", ctypes.c_uint8 * SAMPLE_BYTES),)


class _End:
    """A publisher and a subscriber, each with its event."""

    def __init__(self, name: str, out: str, into: str) -> None:
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._publisher = self._service(f"{name}/{out}").publisher_builder().create()
        self._subscriber = self._service(f"{name}/{into}").subscriber_builder().create()
        self._notifier = self._event(f"{name}/{out}").notifier_builder().create()
        self._listener = self._event(f"{name}/{into}").listener_builder().create()

    def send(self, payloads: list[bytes]) -> None:
        send_copy, sample_of = self._publisher.send_copy, Payload.from_buffer_copy
        for payload in payloads:
            send_copy(sample_of(payload))
        self._notifier.notify()

    def receive(self) -> list[bytes]:
        """All that is there; waits until there is something."""
        found: list[bytes] = []
        receive, take = self._subscriber.receive, found.append
        while not found:
            while (sample := receive()) is not None:
                take(bytes(sample.payload().contents.data))
                sample.delete()
            if not found:
                self._listener.blocking_wait()
        return found

    def stop(self) -> None:
        """Tell the other end that it is over."""
        self.send([bytes(SAMPLE_BYTES)])

    def close(self) -> None:
        for port in (self._publisher, self._subscriber, self._notifier, self._listener):
            port.delete()
        del self._node

    def _service(self, name: str) -> Any:
        builder = self._node.service_builder(iceoryx2.ServiceName.new(name)).publish_subscribe(Payload)
        builder = builder.subscriber_max_buffer_size(_BUFFER).enable_safe_overflow(False).max_publishers(1)
        return builder.max_subscribers(1).open_or_create()

    def _event(self, name: str) -> Any:
        return self._node.service_builder(iceoryx2.ServiceName.new(name)).event().open_or_create()


class Iceoryx2Transport(Transport):
    """Two publish-subscribe services with an event each."""

    name = "iceoryx2"

    def __init__(self) -> None:
        service = f"tykpy-bench-{os.getpid()}"
        self._end = _End(service, _THERE, _BACK)
        command = [sys.executable, "-m", "benchmarks.ring.iceoryx2", service]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise RuntimeError("iceoryx2's echo process did not start; it said why on standard error")

    def round_trips(self, count: int, payload: bytes) -> None:
        end, sent, received = self._end, WINDOW, 0
        end.send([payload] * WINDOW)
        while received < count:
            got = len(end.receive())
            received += got
            if more := min(got, count - sent):
                end.send([payload] * more)
                sent += more

    def close(self) -> None:
        self._end.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(_JOIN_SECONDS)
        self._end.close()


def echo(service: str) -> None:
    """The other side: until a message of zeros."""
    end = _End(service, _BACK, _THERE)
    os.write(sys.stdout.fileno(), _READY)
    stop = bytes(SAMPLE_BYTES)
    while stop not in (messages := end.receive()):
        end.send(messages)
    end.close()


if __name__ == "__main__":
    echo(sys.argv[1])
