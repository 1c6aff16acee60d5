"""`tykpy call`: one hook call to a running broker, and what came of it."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.errors import DialError
from tykpy.client.dialing import ClientTls
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.changes import Change, as_json, changes
from tykpy.commands.errors import CommandError

DISPATCH = "/coprocess.Dispatcher/Dispatch"
DISPATCH_EVENT = "/coprocess.Dispatcher/DispatchEvent"

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back, and how long it took in seconds, as the caller saw it."""

    sent: Object
    received: Object
    seconds: float

    @property
    def changes(self) -> list[Change]:
        """What the hook changed."""
        return changes(self.sent, self.received)


def connect(address: str, tls: ClientTls) -> GrpcClient:
    """Return a client of the broker at an address.

    Raises CommandError where nobody listens, BrokerError for options that cannot be used and where TLS fails.
    """
    try:
        return GrpcClient(address, tls=tls)
    except DialError:
        raise
    except OSError as error:
        hint = "is --connect, or --runtime-dir, the broker's own?"
        raise CommandError(f"no broker answers at {address} ({reason(error)}); {hint}") from error


def reason(error: OSError) -> str:
    """Why, without where."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def call_hook(client: GrpcClient, obj: Object, timeout: float, metadata: Mapping[str, str] | None = None) -> Outcome:
    """Dispatch the object, with this gRPC metadata.

    Raises CommandError with the broker's status and message, or where nobody answers.
    """
    started = time.perf_counter()
    try:
        answer = client.call(DISPATCH, obj.SerializeToString(), timeout=timeout, metadata=metadata)
        return Outcome(obj, Object.FromString(answer), time.perf_counter() - started)
    except GrpcCallError as error:
        raise CommandError(f"{error.code}: {error.message}") from error
    except (OSError, DecodeError) as error:
        raise CommandError(str(error)) from error


def send_event(client: GrpcClient, event: Event, timeout: float) -> float:
    """Dispatch the event; returns the seconds it took.

    Raises CommandError with the broker's status and message, or where nobody answers.
    """
    started = time.perf_counter()
    try:
        client.call(DISPATCH_EVENT, event.SerializeToString(), timeout=timeout)
    except GrpcCallError as error:
        raise CommandError(f"{error.code}: {error.message}") from error
    except OSError as error:
        raise CommandError(str(error)) from error
    return time.perf_counter() - started


def show(outcome: Outcome, echo: Echo, *, whole: bool) -> None:
    """Print what changed, or the whole object as JSON."""
    if whole:
        echo(as_json(outcome.received))
        return
    hook = outcome.sent.hook_name
    found = outcome.changes
    echo(f"{hook} answered in {outcome.seconds * 1e3:.2f} ms" + ("" if found else " and changed nothing"))
    for change in found:
        echo(f"  {change}")
