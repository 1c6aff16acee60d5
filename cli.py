"""The command line: the group of all commands, each in a module of `commands/` or `bench/`.

What a command needs is imported when it runs: `tykpy --help` stays fast, and a command pays only for itself.
"""

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tykpy", prog_name="tykpy")
def main() -> None:
    """Python middleware for the Tyk Gateway, on all cores."""


for _command in (
    new,
    broker,
    check_config,
    config,
    call,
    hooks,
    health,
    status,
    top,
    reload_bundles,
    scale,
    log_level,
    stacks,
    record,
    replay,
    bundle,
    lint,
    dev,
    bench,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()
