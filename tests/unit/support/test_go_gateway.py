"""Where there is no Go, its tests are skipped for a person, and fail where continuous integration relies on them."""

import pytest

from tests.support.gateway import go_gateway


@pytest.fixture(autouse=True)
def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    go_gateway.go_program.cache_clear()


def test_without_go_a_person_is_told_why_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Go on this machine"):
        go_gateway.go_program("gateway")


def test_without_go_continuous_integration_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Go on this machine"):
        go_gateway.go_program("gateway")
