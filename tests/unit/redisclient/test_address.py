"""Redis URLs: all the forms, and errors that never show a password."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tykpy.redisclient.address import Node, RedisAddress, Topology, parse_redis_url, redact
from tykpy.redisclient.client import connect
from tykpy.redisclient.errors import RedisURLError


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("redis://", {"nodes": (Node("localhost", 6379),)}),
        ("redis://host", {"nodes": (Node("host", 6379),)}),
        ("redis://host:1/", {"nodes": (Node("host", 1),), "db": 0}),
        ("redis://host:1/3", {"nodes": (Node("host", 1),), "db": 3}),
        ("redis://host?db=4", {"db": 4}),
        ("redis://[::1]:6380", {"nodes": (Node("::1", 6380),)}),
        ("redis://:s%40c%2Fret@host", {"username": None, "password": "s@c/ret"}),
        ("redis://user:p:w@host", {"username": "user", "password": "p:w"}),
        ("redis://user@host", {"username": "user", "password": None}),
        ("rediss://host", {"tls": True, "topology": Topology.TCP}),
        (
            "rediss://host?ssl_ca_certs=/ca.pem&ssl_check_hostname=no",
            {"tls_options": (("ssl_ca_certs", "/ca.pem"), ("ssl_check_hostname", "no"))},
        ),
        ("unix:///run/redis.sock", {"topology": Topology.UNIX, "path": "/run/redis.sock", "nodes": ()}),
        ("unix://u:p@/run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2, "password": "p"}),
        ("unix:///run/a%20b.sock?password=p", {"path": "/run/a b.sock", "password": "p"}),
        (
            "redis+sentinel://a,b:1/mymaster/2",
            {
                "topology": Topology.SENTINEL,
                "nodes": (Node("a", 26379), Node("b", 1)),
                "service": "mymaster",
                "db": 2,
            },
        ),
        (
            "rediss+sentinel://:p@a/m?sentinel_password=sp&sentinel_username=su",
            {"tls": True, "service": "m", "sentinel_password": "sp", "sentinel_username": "su"},
        ),
        (
            "redis+cluster://a:1,b",
            {"topology": Topology.CLUSTER, "nodes": (Node("a", 1), Node("b", 6379)), "tls": False},
        ),
        ("rediss+cluster://a/0", {"topology": Topology.CLUSTER, "tls": True, "db": 0}),
    ],
)
def test_forms(url: str, fields: dict[str, Any]) -> None:
    address = parse_redis_url(url)
    assert {name: getattr(address, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:6379", "(a URL without ://): not a Redis URL"),
        ("http://host", "unknown scheme 'http'; there is redis,"),
        ("redis://host:0", "a port from 1 to 65535"),
        ("redis://host:65536", "a port from 1 to 65535"),
        ("redis://host:port", "a host is written host or host:port"),
        ("redis://a..b", "a host is written host or host:port"),
        ("redis://::1", "a host is written host or host:port"),
        ("redis://a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis://host/zero", "a database is a number, not 'zero'"),
        ("redis://host/0/1", "'0/1' is too long for a database's number"),
        ("redis://host?socket_timeout=9", "unknown option socket_timeout after the ?; there is db,"),
        ("unix://run/redis.sock", "a unix URL has three slashes"),
        ("redis+sentinel://a,b", "the service's name is missing"),
        ("redis+cluster://a/1", "a Redis Cluster has no databases, only 0"),
        ("redis://:s@cret@host", "special characters of a password are percent-encoded"),
    ],
)
def test_mistakes_in_urls_are_explained(url: str, said: str) -> None:
    with pytest.raises(RedisURLError) as caught:
        parse_redis_url(url)
    assert said in str(caught.value)


@pytest.mark.parametrize("password", ["secret", "sec/ret", "s#cret", "s?cret", "s@cret", "sec:ret"])
@pytest.mark.parametrize("rest", ["host:6379/0", "host/x", "host:badport", "a,b/m?db=1"])
def test_no_message_shows_the_password(password: str, rest: str) -> None:
    url = f"redis://user:{password}@{rest}"
    assert password not in redact(url)
    assert "user" not in redact(url)
    try:
        shown = repr(parse_redis_url(url))
    except RedisURLError as error:
        shown = f"{error} {error.__cause__} {error.__context__}"
    for piece in (password, "cret"):
        assert piece not in shown


@given(st.text() | st.from_regex(r"(redis|unix|redis\+sentinel|redis\+cluster)://.*", fullmatch=True))
def test_any_text_is_an_address_or_a_mistake(url: str) -> None:
    try:
        parsed = parse_redis_url(url)
    except RedisURLError:
        return
    assert isinstance(parsed, RedisAddress)


def test_secrets_are_taken_out_of_redis_pys_messages() -> None:
    address = parse_redis_url("redis+sentinel://:first@a/m?sentinel_password=second")
    assert address.without_secrets("Redis(password=first) second") == "Redis(password=***) ***"


def test_every_option_reaches_redis_py() -> None:
    address = parse_redis_url("rediss://u:p@host:1/3?ssl_ca_certs=/ca.pem&ssl_check_hostname=no")
    connected = connect(address, 0.5)
    options = connected.client.connection_pool.connection_kwargs  # type: ignore[attr-defined]
    connected.close()
    expected = {
        "host": "host",
        "port": 1,
        "db": 3,
        "username": "u",
        "password": "p",
        "ssl_ca_certs": "/ca.pem",
        "ssl_check_hostname": False,
        "socket_timeout": 0.5,
        "socket_connect_timeout": 0.5,
    }
    assert {name: options[name] for name in expected} == expected


def test_every_option_reaches_the_sentinels() -> None:
    address = parse_redis_url("rediss+sentinel://:p@a,b:1/m/3?sentinel_password=sp&ssl_ca_certs=/ca.pem")
    connected = connect(address, 0.5)
    of_master = connected.client.connection_pool.connection_kwargs  # type: ignore[attr-defined]
    of_sentinels = [other.connection_pool.connection_kwargs for other in connected.others]  # type: ignore[attr-defined]
    connected.close()
    assert (of_master["password"], of_master["db"], of_master["ssl_ca_certs"]) == ("p", 3, "/ca.pem")
    assert [(options["host"], options["port"]) for options in of_sentinels] == [("a", 26379), ("b", 1)]
    for options in of_sentinels:
        assert (options["password"], options["socket_timeout"]) == ("sp", 0.5)
        assert options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@localhost/0", "redis://***@localhost/0"),
        ("redis://user:sec@ret@localhost", "redis://***@localhost"),
        ("redis://user:sec/ret@localhost/0", "redis://***@localhost/0"),
        ("redis://user:sec#ret@localhost/0", "redis://***@localhost/0"),
        ("redis://user:sec?ret@localhost/0", "redis://***"),
        ("redis://localhost/0?password=secret", "redis://localhost/0"),
        ("redis://localhost/0?password=sec@ret", "redis://***"),
        ("secret", "(a URL without ://)"),
        ("", "(a URL without ://)"),
    ],
)
def test_a_redacted_url_has_no_secrets_even_if_malformed(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_tls_files_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "rediss://host?ssl_ca_certs=ca.pem&ssl_certfile=c.pem&ssl_keyfile=k.pem&ssl_cert_reqs=none"
    files = tuple((name, f"{tmp_path}/{file}") for name, file in
                  (("ssl_ca_certs", "ca.pem"), ("ssl_certfile", "c.pem"), ("ssl_keyfile", "k.pem")))  # fmt: skip
    assert parse_redis_url(url).tls_options == (*files, ("ssl_cert_reqs", "none"))
