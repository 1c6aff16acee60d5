"""All outcomes with what they depend on, as a Markdown table and as JSON."""

from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bars.bar import Outcome
from benchmarks.bars.rounds import Pace
from benchmarks.output import markdown_table
from benchmarks.results import doubts

COLUMNS: Final = ("bar", "", "promised", "measured (rounds)", "met", "figures")


@dataclass(frozen=True, slots=True)
class BarsReport:
    """One run."""

    command: str
    machine: dict[str, str]
    pace: Pace
    outcomes: tuple[Outcome, ...]
    failures: dict[str, str]
    """Bars that could not be measured, and why."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "machine": self.machine,
            "rounds": self.pace.rounds,
            "seconds": self.pace.seconds,
            "bars": [outcome.as_dict() for outcome in self.outcomes],
            "failures": self.failures,
        }

    def markdown(self) -> str:
        """For people."""
        rows = [
            (
                outcome.bar.name, outcome.bar.what, outcome.bar.text, outcome.measured,
                "yes" if outcome.met else "**no**", outcome.detail,
            )
            for outcome in self.outcomes
        ]  # fmt: skip
        return markdown_table(COLUMNS, rows) + "\n\n" + "\n".join(f"* {note}" for note in self.notes()) + "\n"

    def notes(self) -> list[str]:
        """What belongs under the table."""
        return [
            *(f"Not measured: {name}: {why}" for name, why in self.failures.items()),
            *doubts(self.machine),
            f"Medians of {self.pace.rounds} interleaved rounds of about {self.pace.seconds:g} s; lowest to highest.",
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            f"Made by: {self.command}",
        ]
