"""The configuration refuses what cannot work, by the name of the flag."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config import BrokerConfig, default_runtime_dir, flag_of, options
from broker.errors import ConfigError


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
        ("max_message", 1023),
        ("max_streams", 0),
        ("ready_timeout", 0),
        ("socket_mode", 0o1777),
    ],
)
def test_an_impossible_value_is_refused_by_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{flag_of(name)} .*must be between"):
        replace(BrokerConfig(), **{name: value})


def test_a_folder_of_bundles_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        BrokerConfig(bundles=tmp_path / "none")


def test_the_default_address_lies_in_the_runtime_folder(tmp_path: Path) -> None:
    config = BrokerConfig(runtime_dir=tmp_path)
    assert config.addresses == (f"unix://{tmp_path}/tyk.sock",)
    assert replace(config, listen=("tcp://127.0.0.1:1",)).addresses == ("tcp://127.0.0.1:1",)


def test_a_user_who_is_not_root_gets_a_runtime_folder_of_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1234")
    assert default_runtime_dir() == Path("/run/user/1234/tykpy")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_runtime_dir() == Path("/tmp/tykpy-1234")


def test_every_option_has_a_help_text() -> None:
    assert all(len(option.metadata["help"]) > 10 for option in options())
