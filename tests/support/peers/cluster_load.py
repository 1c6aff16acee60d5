"""A client of several brokers, on a machine of its own: `python -m tests.support.peers.cluster_load`.

It runs a name server and calls without pause, each call with an id of its own. Commands are lines of JSON on standard
input: `{"addresses": [...]}` changes what the name server answers, `{"grpc": TARGET}` and `{"http": URL}` start calls.
It ends with its input. Standard output: a line with the name server's port, then `ID OUTCOME BROKER` for each call.
"""

import itertools
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import grpc

from tests.support.peers.name_server import running_name_server
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.commands.objects import CallDescription, build_object

NAME: Final = "brokers.test"
HOOK: Final = "count_runs"
THREADS: Final = 4
"""Calls at a time."""
PAUSE: Final = 0.01
"""Seconds between two calls of a thread: the brokers and other tests share the machine."""
TIMEOUT: Final = 20.0
"""Seconds for a call, more than any of the failures lasts."""
OK: Final = "OK"
CHANNEL_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)

Call = Callable[[str], tuple[str, str]]
"""Makes the call with this id; returns its outcome and the broker that answered."""


def main() -> None:
    """Run until the input ends."""
    addresses: list[str] = []
    stop = threading.Event()
    threads: list[threading.Thread] = []
    with running_name_server(NAME, addresses) as port:
        _say(str(port))
        for line in sys.stdin:
            command: dict[str, Any] = json.loads(line)
            addresses[:] = command.get("addresses", addresses)
            if call := _call_of(command):
                threads += [threading.Thread(target=_repeat, args=(call, number, stop)) for number in range(THREADS)]
                for thread in threads:
                    thread.start()
        stop.set()
        for thread in threads:
            thread.join()


def _call_of(command: dict[str, Any]) -> Call | None:
    if "grpc" in command:
        return _grpc_call(command["grpc"])
    if "http" in command:
        return _http_call(command["http"])
    return None


def _grpc_call(target: str) -> Call:
    channel = grpc.insecure_channel(target, CHANNEL_OPTIONS)
    dispatch = channel.unary_unary("/coprocess.Dispatcher/Dispatch", Object.SerializeToString, Object.FromString)

    def call(number: str) -> tuple[str, str]:
        request = build_object(CallDescription(HOOK, headers=[("Call", number)]))
        try:
            answer = dispatch(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        return OK, answer.request.set_headers["X-Broker"]

    return call


def _http_call(url: str) -> Call:
    def call(number: str) -> tuple[str, str]:
        request = urllib.request.Request(url, headers={"Call": number})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return OK, json.load(answer)["headers"]["X-Broker"][0]
        except urllib.error.HTTPError as error:
            return str(error.code), ""

    return call


def _repeat(call: Call, thread: int, stop: threading.Event) -> None:
    for number in itertools.count():
        if stop.wait(PAUSE):
            return
        name = f"{thread}-{number}"
        _say(" ".join((name, *call(name))))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
