"""The configuration refuses what cannot work, by the name of the flag."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tykpy.broker.config import BrokerConfig, default_runtime_dir, flag_of, groups, options
from tykpy.broker.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 0),
        ("workers", 513),
        ("threads", 0),
        ("threads", 49),
        ("timeout", 0),
        ("grace", -1),
        ("hang_grace", -0.1),
        ("queue_size", 0),
        ("queue_wait", -1),
        ("max_body", 1023),
        ("max_body", 511 << 20),
        ("max_message", 1023),
        ("max_streams", 0),
        ("ready_timeout", 0),
        ("socket_mode", 0o1777),
        ("max_requests", -1),
        ("max_requests_jitter", -1),
        ("max_age", -0.1),
        ("max_memory", -1),
        ("limit_memory", -1),
        ("limit_cpu", -1),
        ("limit_files", -1),
        ("breaker_cooldown", 0),
        ("event_stream_length", 0),
        ("event_queue", 0),
        ("event_grace", -1),
    ],
)
def test_an_impossible_value_is_refused_by_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{flag_of(name)} .*must be between"):
        replace(BrokerConfig(), **{name: value})


def test_bundles_may_be_missing_but_not_a_file(tmp_path: Path) -> None:
    assert BrokerConfig(bundles=tmp_path / "none").bundles == tmp_path / "none"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        BrokerConfig(bundles=tmp_path / "file")


def test_a_wrong_redis_url_is_an_error_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"--redis redis\+sentinel://.*the service's name is missing") as caught:
        BrokerConfig(redis="redis+sentinel://:geheim@localhost")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("redis", ["redis://h", "rediss://h", "unix:///s", "redis+sentinel://h/s", "redis+cluster://h"])
def test_a_stream_can_be_at_every_redis(redis: str) -> None:
    assert BrokerConfig(redis=redis, event_stream="events").event_stream == "events"


def test_a_stream_needs_a_redis_and_a_name() -> None:
    with pytest.raises(ConfigError, match="--event-stream needs --redis"):
        BrokerConfig(event_stream="events")
    with pytest.raises(ConfigError, match="needs a name"):
        BrokerConfig(redis="redis://localhost", event_stream="")
    for name in ("\udcff", "a\nb", "\x1b[2J"):
        with pytest.raises(ConfigError, match="write printable characters"):
            BrokerConfig(redis="redis://localhost", event_stream=name)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:9000", "ftp://h/secret", "http:///secret", "http://h:99999/secret", "http://h:0/secret",
     "http://h/a secret", "http://h/\nsecret", "http://h/\xe4secret", "http://[::1/secret"],
)  # fmt: skip
def test_a_wrong_webhook_is_an_error_without_its_url(url: str) -> None:
    with pytest.raises(ConfigError, match="--event-webhook: not a URL") as caught:
        BrokerConfig(event_webhook=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h", "https://u:p@h:1/x?y=z", "http://[::1]:9/"])
def test_a_webhook_may_be_any_web_address(url: str) -> None:
    assert BrokerConfig(event_webhook=url).event_webhook == url


def test_queue_bytes_must_hold_one_message() -> None:
    assert BrokerConfig(max_message=1 << 20, queue_bytes=1 << 20).queue_bytes == 1 << 20
    with pytest.raises(ConfigError, match=r"--queue-bytes 1048575B: .* 1MiB \(--max-message\)"):
        BrokerConfig(max_message=1 << 20, queue_bytes=(1 << 20) - 1)
    with pytest.raises(ConfigError, match=r"--queue-bytes 6291455B: .* 6MiB \(--max-body 1MiB: .*twice\)"):
        BrokerConfig(max_body=1 << 20, queue_bytes=6 * (1 << 20) - 1)


def test_the_default_address_lies_in_the_runtime_folder(tmp_path: Path) -> None:
    config = BrokerConfig(runtime_dir=tmp_path)
    assert config.addresses == (f"unix://{tmp_path}/tyk.sock",)
    assert replace(config, listen=("tcp://127.0.0.1:1",)).addresses == ("tcp://127.0.0.1:1",)


def test_users_other_than_root_have_their_own_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1234")
    assert default_runtime_dir() == Path("/run/user/1234/tykpy")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_runtime_dir() == Path("/tmp/tykpy-1234")


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        (("http://x:80",), "is not an address"),
        (("msgpack+http://x:80",), "is not an address"),
        (("tcp://x:65536",), "is not an address"),
        (("tcp://x",), "is not an address"),
        (("tcp://a..b:80",), "names no host"),
        ((f"unix:///{'x' * 107}",), "longer than 107 bytes"),
        (("unix://",), "no path"),
        (("unix:///a/s", "msgpack+unix:/a/s"), "given twice"),
        (("tcp://x:80", "tcp://x:80"), "given twice"),
        ((f"unix://{default_runtime_dir()}/admin.sock",), "own admin socket"),
        (("tls://x:80",), "needs --tls-cert"),
    ],
)
def test_an_impossible_address_is_refused(listen: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BrokerConfig(listen=listen)


def test_a_runtime_folder_with_a_too_long_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        BrokerConfig(runtime_dir=tmp_path / ("x" * 100))


def test_port_0_may_be_given_twice() -> None:
    assert BrokerConfig(listen=("tcp://127.0.0.1:0", "msgpack+tcp://127.0.0.1:0"))


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "key").touch()
    config = BrokerConfig(bundles=Path("bundles"), public_key=Path("key"), runtime_dir=Path("rt"), tls_key=Path("k"))
    found = (config.bundles, config.public_key, config.runtime_dir, config.tls_key)
    assert found == tuple(tmp_path / name for name in ("bundles", "key", "rt", "k"))
    assert config.addresses == (f"unix://{tmp_path}/rt/tyk.sock",)


def test_a_relative_path_needs_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="--runtime-dir rt: is relative, and the working directory is gone"):
        BrokerConfig(runtime_dir=Path("rt"))


def test_a_redis_url_of_other_bytes_than_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="percent-encoded"):
        BrokerConfig(redis="redis://:caf\udce9@h")


def test_a_value_out_of_bounds_is_shown_with_its_unit() -> None:
    with pytest.raises(ConfigError, match="--max-body 512MiB: must be between 1KiB and 510MiB"):
        BrokerConfig(max_body=512 << 20)
    with pytest.raises(ConfigError, match="--timeout 2d: must be between 1ms and 1d"):
        BrokerConfig(timeout=2 * 86_400)
    with pytest.raises(ConfigError, match="--socket-mode 1777: must be between 0000 and 0777"):
        BrokerConfig(socket_mode=0o1777)


def test_all_problems_are_told_at_once() -> None:
    """But not that --queue-bytes is too small for a --max-body that is impossible."""
    with pytest.raises(ConfigError) as caught:
        BrokerConfig(max_body=1, queue_bytes=1024, group="g", admin_page=True, event_stream="", metrics="tls://x:1")
    assert [problem.split()[0].rstrip(":") for problem in caught.value.problems] == [
        "--max-body", "--metrics", "--group", "--event-stream",
    ]  # fmt: skip


def test_every_option_is_in_one_group() -> None:
    assert [option for group in groups().values() for option in group] == list(options())


def test_every_option_has_a_help_text() -> None:
    assert all(len(option.metadata["help"]) > 10 for option in options())
