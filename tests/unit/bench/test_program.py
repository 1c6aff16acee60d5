"""Options become a plan, or an error for people."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tykpy.bench import command, program
from tykpy.bench.errors import BenchError
from tykpy.bench.program import plan_of
from tykpy.bench.runs import Plan
from tykpy.bench.scenarios import ALL, BUILT_IN
from tykpy.commands.errors import CommandError


def plan(*arguments: str) -> Plan:
    context = command.bench.make_context("bench", list(arguments))
    return plan_of(context.params)


def test_the_default_is_the_header_scenario_up_to_all_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "usable_cpus", lambda: 6)
    default = plan()
    assert [scenario.name for scenario in default.scenarios] == ["header"]
    assert default.workers == (1, 2, 4, 6)
    monkeypatch.setattr(program, "usable_cpus", lambda: 1)
    assert plan().workers == (1,)


def test_the_help_names_every_scenario() -> None:
    assert (*BUILT_IN, ALL) == command.SCENARIOS


def test_all_means_all() -> None:
    assert len(plan("--scenario", "all", "--workers", "1").scenarios) == len(BUILT_IN)


def test_cases_are_all_combinations_grouped_by_broker() -> None:
    wanted = plan(
        "--scenario", "cpu", "--workers", "1,2", "--threads", "3", "--streams", "4,5", "--body-size", "1KiB,2MiB"
    )
    groups = wanted.groups()
    assert list(groups) == [(1, 3), (2, 3)]
    assert [(case.streams, case.body_size) for _, case in groups[2, 3]] == [
        (4, 1024), (5, 1024), (4, 2 << 20), (5, 2 << 20),
    ]  # fmt: skip
    assert wanted.run_seconds == 8 * 3 * 2.5


def test_scenarios_bring_their_own_streams_and_sizes() -> None:
    groups = plan("--scenario", "wait", "--scenario", "body", "--workers", "2", "--rate", "100,200").groups()
    assert list(groups) == [(2, 0)]
    assert [case.rate for scenario, case in groups[2, 0] if scenario.name == "wait"] == [100, 200]
    assert len({case.body_size for scenario, case in groups[2, 0] if scenario.name == "body"}) == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rate", "5", "--streams", "5"], "give one of them"),
        (["--connect", "unix:///x"], "needs --bundle"),
        (["--connect", "unix:///x", "--bundle", "b", "--hook", "h", "--workers", "2"], "leave --workers"),
        (["--bundle", "/no/such", "--hook", "h"], "no such folder or file"),
        (["--bundle", ".", "--scenario", "cpu"], "give one of them"),
        (["--bundle", "."], "needs --hook"),
        (["--hook", "h"], "need --bundle"),
        (["--replay", "r"], "needs --bundle"),
        (["--bundle", ".", "--hook", "h", "--recorded", "b"], "give it with --replay"),
        (["--bundle", ".", "--replay", "r", "--body-size", "1KiB"], "leave --object and --body-size out"),
        (["--streams", "2", "--connections", "3"], "more than --streams"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        plan(*arguments)


@pytest.mark.parametrize(
    "arguments", [["--workers", "0"], ["--workers", "x"], ["--body-size", "1GB"], ["--rate", "-1"], ["--seconds", "0"]]
)
def test_numbers_out_of_bounds_are_refused(arguments: list[str]) -> None:
    with pytest.raises(click.BadParameter):
        plan(*arguments)
    assert CliRunner().invoke(command.bench, arguments).exit_code == 2


def test_an_own_object_may_name_the_hook(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('{"hook_type": "Post", "hook_name": "Mine", "request": {"method": "PUT"}}')
    own: Any = plan("--bundle", str(tmp_path), "--object", str(tmp_path / "o.json"), "--workers", "1").scenarios[0]
    assert own.name == "Mine"
    assert own.build(None).request.method == "PUT"
    assert len(own.build(500).request.raw_body) == 500
    assert own.build(None).spec["bundle_hash"] != ""
    (tmp_path / "o.json").write_text('{"hook_type": "Post"}')
    with pytest.raises(CommandError, match="hook_name"):
        plan("--bundle", str(tmp_path), "--object", str(tmp_path / "o.json"))
