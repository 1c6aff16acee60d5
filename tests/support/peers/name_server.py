"""A name server for one name, whose addresses a test decides, for `dns://` targets of grpc-go.

with running_name_server("broker.test", ["127.0.0.2", "127.0.0.3"]) as port:
    target = f"dns://127.0.0.1:{port}/broker.test:5555"
"""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

A_RECORD: Final = 1
INTERNET: Final = 1
ANSWERED: Final = 0x8180
"""A response, recursion desired and available, no error (RFC 1035, 4.1.1)."""
NAME_OF_QUESTION: Final = 0xC00C
"""A pointer to the name at byte 12, the start of the question (RFC 1035, 4.1.4)."""
HEADER: Final = struct.Struct("!6H")
MAX_QUESTION: Final = 1232
"""Bytes of a UDP question."""


@contextmanager
def running_name_server(name: str, addresses: Sequence[str]) -> Iterator[int]:
    """Answer for a name for the time of a `with` block; gives the UDP port. Other names have no address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve, args=(server, name, addresses))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            # An empty datagram is the end; a socket that another thread reads is not closed under its hands.
            server.sendto(b"", server.getsockname())
            thread.join()


def _serve(server: socket.socket, name: str, addresses: Sequence[str]) -> None:
    while True:
        query, client = server.recvfrom(MAX_QUESTION)
        if not query:
            return
        server.sendto(_answer(query, name, addresses), client)


def _answer(query: bytes, name: str, addresses: Sequence[str]) -> bytes:
    asked, end = _name(query)
    kind, _ = struct.unpack_from("!2H", query, end)
    found = addresses if (asked, kind) == (name, A_RECORD) else ()
    header = HEADER.pack(struct.unpack_from("!H", query)[0], ANSWERED, 1, len(found), 0, 0)
    return header + query[HEADER.size : end + 4] + b"".join(map(_record, found))


def _record(address: str) -> bytes:
    return struct.pack("!3HIH", NAME_OF_QUESTION, A_RECORD, INTERNET, 0, 4) + socket.inet_aton(address)


def _name(query: bytes) -> tuple[str, int]:
    """Return the requested name in lower case, and its end."""
    labels, at = [], HEADER.size
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels), at + 1
