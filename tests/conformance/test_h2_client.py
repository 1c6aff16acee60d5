"""Our answers, read by the strict `h2` library."""

import socket
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from h2.settings import SettingCodes

from tests.support.peers.grpc_server import PATIENCE, EchoServer

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/coprocess.Dispatcher/Dispatch"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
MESSAGE = b"\0\0\0\0\x05hello"


@pytest.mark.parametrize("table_size", [0, 100, 4096])
def test_a_peer_with_another_header_table_reads_our_answers(tmp_path: Path, table_size: int) -> None:
    with EchoServer(f"unix://{tmp_path}/s"), socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(f"{tmp_path}/s")
        http = H2Connection(H2Configuration(client_side=True))
        http.local_settings[SettingCodes.HEADER_TABLE_SIZE] = table_size
        http.initiate_connection()
        for stream_id in (1, 3):
            http.send_headers(stream_id, HEADERS)
            http.send_data(stream_id, MESSAGE, end_stream=True)
            peer.sendall(http.data_to_send())
            kinds: list[type] = []
            while StreamEnded not in kinds:
                events = http.receive_data(peer.recv(65536))
                kinds += [type(event) for event in events]
                peer.sendall(http.data_to_send())
            assert kinds.index(ResponseReceived) < kinds.index(DataReceived)
