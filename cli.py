"""The command line: the group of all commands, each in a module of `commands/` or `bench/`.

What a command needs is imported when it runs: `tykpy --help` stays fast, and a command pays only for itself.
"""

from typing import Any

import click

from tykpy.bench.command import bench
from tykpy.commands.broker import broker
from tykpy.commands.bundle.command import bundle
from tykpy.commands.call import call
from tykpy.commands.config.command import check_config, config
from tykpy.commands.health import health
from tykpy.commands.hooks import hooks
from tykpy.commands.lint.command import lint
from tykpy.commands.new.command import new
from tykpy.commands.pool import log_level, reload_bundles, scale
from tykpy.commands.stacks import stacks
from tykpy.commands.status import status
from tykpy.commands.top.command import top
from tykpy.devserver.command import dev
from tykpy.traffic.record_command import record
from tykpy.traffic.replay_command import replay


class Sections(click.Group):
    """A group whose help lists its commands by what they are for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sections: dict[str, list[click.Command]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands under a title."""
        self._sections[title] = list(commands)
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; the summary of a command fills the rest of its line."""
        width = max(len(name) for name in self.commands)
        for title, commands in self._sections.items():
            with formatter.section(title):
                summary = formatter.width - width - 6
                rows = [(str(one.name).ljust(width), one.get_short_help_str(summary)) for one in commands]
                formatter.write_dl(rows)


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tykpy", prog_name="tykpy")
def main() -> None:
    """Python middleware for the Tyk Gateway, on all cores."""


main.add_section("Write plugins", new, dev, lint, bundle)
main.add_section("Run a broker", broker, check_config, config, reload_bundles, scale, log_level)
main.add_section("Look at a broker", status, health, hooks, top, stacks)
main.add_section("Test with calls and traffic", call, record, replay, bench)


if __name__ == "__main__":
    main()
