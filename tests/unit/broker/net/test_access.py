"""Who connects to a Unix socket, and whether it is admitted."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.broker.net.access import (
    CredentialCheck,
    Peer,
    admin_admission,
    gateway_admission,
    group_id,
    peer_of,
    user_id,
)


class Transport:
    """The part of a transport that an admission uses."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._socket


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    one, other = socket.socketpair()
    with one, other:
        yield one


def ask(check: CredentialCheck, sock: socket.socket) -> str | None:
    return check(cast(asyncio.BaseTransport, Transport(sock)))


def test_peer_credentials_come_from_the_kernel(connected: socket.socket) -> None:
    assert peer_of(connected) == Peer(os.getpid(), os.getuid(), frozenset({os.getgid(), *os.getgroups()}))


@pytest.mark.parametrize(
    ("users", "groups", "admitted"),
    [
        ({7}, set(), True),
        ({8}, set(), False),
        (set(), {70}, True),
        (set(), {71}, True),
        (set(), {72}, False),
        ({8}, {72}, False),
        ({8}, {71}, True),
        (set(), set(), False),
    ],
)
def test_users_and_group_members_are_admitted(users: set[int], groups: set[int], admitted: bool) -> None:
    check = CredentialCheck("this socket", frozenset(users), frozenset(groups))
    assert check.admits(Peer(1, 7, frozenset({70, 71}))) is admitted


def test_a_refusal_is_logged_once_with_the_peer(connected: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    check = CredentialCheck("this socket", frozenset({os.getuid() + 1}))
    with caplog.at_level(logging.WARNING, "tykpy.access"):
        answers = [ask(check, connected) for _ in range(50)]
    assert all(f"user {os.getuid()} with groups" in str(answer) for answer in answers)
    (message,) = caplog.messages
    assert f"refused process {os.getpid()} of user {os.getuid()}, groups" in message
    assert str(os.getgid()) in message


def test_tcp_connections_are_not_checked() -> None:
    with socket.socket(socket.AF_INET) as sock:
        assert ask(CredentialCheck("this socket", frozenset()), sock) is None


def test_without_allowed_users_there_is_no_check() -> None:
    assert gateway_admission(BrokerConfig()) is None


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no user 'nobody-is-called-so'"):
        gateway_admission(BrokerConfig(allow_user=("nobody-is-called-so",)))
    with pytest.raises(ConfigError, match="no group 'none-is-called-so'"):
        gateway_admission(BrokerConfig(allow_group=("none-is-called-so",)))


def test_the_admin_socket_admits_our_own_user(connected: socket.socket) -> None:
    assert admin_admission()(cast(asyncio.BaseTransport, Transport(connected))) is None


@pytest.mark.parametrize("lookup", [user_id, group_id])
@pytest.mark.parametrize("number", ["\u0660", "²", "-1", "4294967295", "9" * 20, ""])
def test_a_number_that_no_user_has_is_refused(lookup: Callable[[str], int], number: str) -> None:
    """The digit zero of another script is not root, and 4294967295 would leave root's rights as they are."""
    with pytest.raises(ConfigError):
        lookup(number)


def test_the_largest_number_is_a_user() -> None:
    assert user_id("4294967294") == group_id("4294967294") == 2**32 - 2
