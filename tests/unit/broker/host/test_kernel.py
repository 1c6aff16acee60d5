"""The system is checked before anything is opened."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tykpy.broker.errors import ConfigError
from tykpy.broker.host import kernel
from tykpy.broker.host.kernel import check_kernel


def run_on(monkeypatch: pytest.MonkeyPatch, sysname: str, release: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname=sysname, release=release))


@pytest.mark.parametrize("release", ["5.10.0", "5.10-rc1", "5.15.0-91-generic", "6.1.0", "10.0"])
def test_a_newer_linux_is_accepted(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    run_on(monkeypatch, "Linux", release)
    check_kernel()


@pytest.mark.parametrize(
    ("sysname", "release"), [("Linux", "5.9.16"), ("Linux", "4.19.0"), ("Linux", "odd"), ("Darwin", "23.1.0")]
)
def test_other_systems_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, sysname: str, release: str) -> None:
    run_on(monkeypatch, sysname, release)
    with pytest.raises(ConfigError, match=rf"needs Linux 5\.10 or newer; this is {sysname} {release}"):
        check_kernel()


def test_a_system_without_proc_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "_PROC", tmp_path / "fd")
    with pytest.raises(ConfigError, match="needs /proc"):
        check_kernel()
