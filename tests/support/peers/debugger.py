"""A client of the Debug Adapter Protocol, as VS Code and PyCharm have one; just enough to hit a breakpoint."""

import itertools
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.broker import PATIENCE


class Debugger:
    """`with Debugger(port) as debugger`: attached, with breakpoints of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self._socket.makefile("rb")
        self._numbers = itertools.count(1)

    def attach(self, file: Path, *lines: int) -> None:
        """Attach, and set breakpoints."""
        self._send("initialize", adapterID="test", pathFormat="path")
        attached = self._send("attach", justMyCode=False)
        self._wait(lambda message: message.get("event") == "initialized")
        breakpoints = [{"line": line} for line in lines]
        self._answer(self._send("setBreakpoints", source={"path": str(file)}, breakpoints=breakpoints))
        self._answer(self._send("configurationDone"))
        self._answer(attached)

    def wait_until_stopped(self) -> int:
        """Return the thread that a breakpoint stops."""
        event = self._wait(lambda message: message.get("event") == "stopped")
        return int(event["body"]["threadId"])

    def evaluate(self, thread: int, expression: str) -> str:
        """Return the value of an expression in the innermost frame."""
        frames = self._answer(self._send("stackTrace", threadId=thread))["body"]["stackFrames"]
        answer = self._answer(self._send("evaluate", expression=expression, frameId=frames[0]["id"]))
        return str(answer["body"]["result"])

    def proceed(self, thread: int) -> None:
        """Let a thread go on."""
        self._answer(self._send("continue", threadId=thread))

    def _send(self, command: str, **arguments: Any) -> int:
        number = next(self._numbers)
        message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return number

    def _answer(self, number: int) -> Any:
        answer = self._wait(lambda message: message.get("request_seq") == number)
        assert answer["success"], answer
        return answer

    def _wait(self, is_wanted: Any) -> Any:
        while True:
            head = self._file.readline()
            assert head, "the debugger's connection has ended"
            length = int(head.partition(b":")[2])
            while self._file.readline().strip():
                pass
            message = json.loads(self._file.read(length))
            if is_wanted(message):
                return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()
