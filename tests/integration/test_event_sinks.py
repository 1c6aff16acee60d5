"""The webhook and the Redis Stream against real servers that are slow, closed, full, faulty, or use TLS."""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.peers.redis_server import RedisServer, running_redis
from tests.support.peers.webhook import Receiver, running_receiver
from tykpy.broker.events.delivery import DeliveryError, DeliveryVerdict
from tykpy.broker.events.event import ReceivedEvent
from tykpy.broker.events.stream import RedisStream
from tykpy.broker.events.webhook import MAX_ANSWER, Webhook
from tykpy.redisclient.address import parse_redis_url


def event(name: str) -> ReceivedEvent:
    return ReceivedEvent(name, f"id-{name}", 0, f'{{"message": {{"Type": "{name}"}}}}')


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as one:
        yield one


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as one:
        yield one


def verdict(webhook: Webhook | RedisStream) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        webhook.deliver([event("a")])
    return caught.value


def test_posts_share_a_connection_while_the_receiver_keeps_it(receiver: Receiver) -> None:
    webhook = Webhook(receiver.url)
    for name in "abc":
        webhook.deliver([event(name)])
    webhook.close()
    assert receiver.names == ["a", "b", "c"]
    assert len({post.connection for post in receiver.posts}) == 1


def test_no_event_is_lost_when_the_receiver_hangs_up(receiver: Receiver) -> None:
    receiver.hang_up = True
    webhook = Webhook(receiver.url)
    for name in "abc":
        webhook.deliver([event(name)])
    webhook.close()
    assert receiver.names == ["a", "b", "c"]


def test_an_answer_is_not_read_without_end(receiver: Receiver) -> None:
    receiver.answer_size = 2 * MAX_ANSWER
    webhook = Webhook(receiver.url)
    for name in "ab":
        webhook.deliver([event(name)])
    webhook.close()
    assert len({post.connection for post in receiver.posts}) == 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [(status, DeliveryVerdict.FAILED) for status in (500, 503, 429, 408)]
    + [(status, DeliveryVerdict.REFUSED) for status in (400, 404, 301)],
)
def test_the_status_decides_whether_it_is_tried_again(
    receiver: Receiver, status: int, expected: DeliveryVerdict
) -> None:
    receiver.answer = lambda number: status
    webhook = Webhook(receiver.url)
    error = verdict(webhook)
    webhook.close()
    assert (error.verdict, str(error)) == (expected, f"answered {status}")


def test_a_receiver_that_is_away_is_a_failure() -> None:
    webhook = Webhook("http://127.0.0.1:1/")
    assert verdict(webhook).verdict is DeliveryVerdict.FAILED
    webhook.close()


def test_url_credentials_become_a_header_and_are_not_displayed(receiver: Receiver) -> None:
    url = receiver.url.replace("http://", "http://me:p%40ss@")
    webhook = Webhook(url)
    webhook.deliver([event("a")])
    webhook.close()
    assert receiver.posts[0].headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert receiver.posts[0].path == "/events?token=between-us"
    assert not [secret for secret in ("me", "p%40ss", "between-us") if secret in webhook.display.partition("://")[2]]


def test_https_is_checked_against_the_machines_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path)
    with running_receiver(certificate, key) as receiver:
        untrusting = Webhook(receiver.url)
        assert "CERTIFICATE_VERIFY_FAILED" in str(verdict(untrusting))
        untrusting.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        webhook = Webhook(receiver.url)
        webhook.deliver([event("a")])
        webhook.close()
        assert receiver.names == ["a"]


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=2))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def stream_at(url: str) -> RedisStream:
    return RedisStream(parse_redis_url(url), "events", 100)


def test_a_stream_is_trimmed_to_about_its_length(server: RedisServer) -> None:
    stream = stream_at(server.url)
    for _ in range(20):
        stream.deliver([event("a")] * 50)
    stream.close()
    with server.client() as client:
        length = client.xlen("events")
    assert isinstance(length, int)
    assert 100 <= length < 400


def test_only_an_unreachable_redis_is_waited_for(server: RedisServer) -> None:
    """An event that Redis refuses fails at once."""
    with server.client() as client:
        client.set("events", "no stream")
    stream = stream_at(server.url)
    error = verdict(stream)
    assert error.verdict is DeliveryVerdict.FAILED
    assert "WRONGTYPE" in str(error)
    server.stop()
    assert verdict(stream).verdict is DeliveryVerdict.AWAY
    stream.close()


def test_redis_that_does_not_answer_is_away_too(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.broker.events.stream.SOCKET_SECONDS", 0.05)
    stream = stream_at(server.url)
    stream.deliver([event("a")])
    server.pause()
    assert verdict(stream).verdict is DeliveryVerdict.AWAY
    server.resume()
    stream.close()


def test_errors_show_no_password(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("requirepass", "geheim")
    stream = stream_at(server.url.replace("unix://", "unix://:wrong-geheim@"))
    error = verdict(stream)
    stream.close()
    assert error.verdict is DeliveryVerdict.AWAY
    assert "wrong-geheim" not in f"{error} {stream.display}"
    right = stream_at(server.url.replace("unix://", "unix://:geheim@"))
    right.deliver([event("a")])
    right.close()
