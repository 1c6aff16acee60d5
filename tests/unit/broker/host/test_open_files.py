"""Connections and descriptors: the broker's own work comes first."""

import resource

import pytest

from tykpy.broker.host.open_files import FEWEST, OWN, PER_WORKER, connections_allowed


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the system says, to be changed by the test."""
    values = {"soft": 1024, "hard": 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (values["soft"], values["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: values.update(soft=both[0], hard=both[1]))
    return values


def test_a_limit_that_is_high_enough_is_left_alone(limits: dict[str, int]) -> None:
    assert connections_allowed(100, 2) == 100
    assert limits == {"soft": 1024, "hard": 4096}


def test_the_soft_limit_is_raised_as_far_as_needed_and_no_further(limits: dict[str, int]) -> None:
    assert connections_allowed(2000, 2) == 2000
    assert limits == {"soft": 2000 + OWN + 2 * PER_WORKER, "hard": 4096}


def test_what_the_system_refuses_is_not_promised(limits: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    allowed = connections_allowed(16_384, 2)
    assert allowed == 4096 - OWN - 2 * PER_WORKER
    assert limits["soft"] == 4096
    assert f"at most {allowed} connections instead of 16384 (--max-connections)" in caplog.text


def test_some_connections_are_always_allowed(limits: dict[str, int]) -> None:
    limits.update(soft=64, hard=64)
    assert connections_allowed(1000, 512) == FEWEST
    assert connections_allowed(3, 512) == 3


def test_without_a_limit_there_is_nothing_to_raise(limits: dict[str, int]) -> None:
    limits.update(soft=resource.RLIM_INFINITY, hard=resource.RLIM_INFINITY)
    assert connections_allowed(16_384, 2) == 16_384
    limits.update(soft=1024)
    assert connections_allowed(16_384, 2) == 16_384
    assert limits["hard"] == resource.RLIM_INFINITY
