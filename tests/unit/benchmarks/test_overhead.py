"""The table of `benchmarks.overhead`."""

from pathlib import Path

from benchmarks.overhead import OFF, SETTINGS, findings
from benchmarks.rounds import Reading, Readings


def test_settings_are_compared_with_off_round_by_round() -> None:
    """A round in which the machine was slow for all of them counts like any other."""
    rounds = {
        "header; 64; off": [Reading(1000, 0, 10, 10, 5), Reading(500, 0, 20, 20, 5), Reading(1000, 0, 10, 10, 5)],
        "header; 64; on": [Reading(800, 0, 12, 12, 5), Reading(400, 0, 24, 24, 5), Reading(800, 0, 12, 12, 5)],
    }
    found = findings(Readings(rounds), list(rounds))
    assert "| header | 64 | on | 800 | 12.0 | 12.0 | 24.0 | 1.20 | 0.80 |" in found.markdown({}, "a command")
    assert [row["cpu_ratio"] for row in found.figures["rows"]] == [1.0, 1.2]


def test_settings_differ_in_what_is_on() -> None:
    options = {setting.name: setting.options(Path("/m.sock")) for setting in SETTINGS}
    assert "--metrics" not in options[OFF]
    assert [chosen[-1] for chosen in options.values()] == ["off", "off", "on", "on"]
    assert [one.environment("http://c")["OTEL_TRACES_SAMPLER_ARG"] for one in SETTINGS] == ["0", "0", "0.01", "1"]
