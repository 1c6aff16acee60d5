"""`tykpy health`: the exit status that probes of containers and service managers need."""

from pathlib import Path
from typing import Any, Final

import click

from tykpy.commands.connecting import runtime_dir_option, tls_options
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback

CHECK: Final = "/grpc.health.v1.Health/Check"
ANSWER_SECONDS: Final = 10.0


@click.command()
@click.option("--ready", is_flag=True, help="Also fail if the broker is not ready, and say why.")
@runtime_dir_option
@click.option(
    "--connect", metavar="ADDRESS",
    help="Ask the health service of a broker at this address instead of reading shared memory.",
)  # fmt: skip
@click.option("--service", default="", help="With --connect: the service to ask about, for example bundle/NAME.")
@tls_options
def health(ready: bool, runtime_dir: Path, connect: str | None, service: str, **tls: Any) -> None:
    """Check whether the broker works; exit with 1 if it does not.

    Reads the snapshot that the broker writes into shared memory twice a second, as long as its event loop turns.
    """
    with no_traceback():
        if connect is not None:
            click.echo(_ask(connect, service, tls, ready=ready))
            return
        if service:
            raise click.UsageError("--service needs --connect")
        click.echo(_read(runtime_dir, ready=ready))


def _read(runtime_dir: Path, *, ready: bool) -> str:
    from tykpy.telemetry.live_segment import read_live_snapshot

    seen = read_live_snapshot(runtime_dir)
    if seen is None:
        raise CommandError(f"no broker runs with --runtime-dir {runtime_dir}, or it belongs to another user")
    snapshot = seen.snapshot
    if not seen.is_running:
        raise CommandError(f"the broker was killed; it was pid {snapshot.pid}, last seen {snapshot.age:.1f} s ago")
    if snapshot.is_stuck:
        raise CommandError(
            f"the broker's event loop has not turned for {snapshot.age:.1f} s; pid {snapshot.pid}{seen.hint}"
        )
    if ready and snapshot.not_ready:
        raise CommandError("not ready: " + "; ".join(f"{one.reason}: {one.text}" for one in snapshot.not_ready))
    return f"{'ready' if ready else 'alive'}: {snapshot.ready} of {snapshot.wanted} workers"


def _ask(address: str, service: str, tls: dict[str, Any], *, ready: bool) -> str:
    from tykpy.broker.codes import ServingStatus
    from tykpy.broker.protowire import pack_bytes, read_tag, read_varint
    from tykpy.client.dialing import ClientTls
    from tykpy.client.grpc import GrpcCallError
    from tykpy.commands.objects import connect

    with connect(address, ClientTls.of(tls)) as client:
        try:
            answer = client.call(CHECK, pack_bytes(1, service.encode()), timeout=ANSWER_SECONDS)
        except GrpcCallError as error:
            raise CommandError(f"{address}: {error}") from error
    # The one field of a HealthCheckResponse; a field of value 0 is not sent.
    status = ServingStatus(read_varint(answer, read_tag(answer, 0)[2])[0] if answer else ServingStatus.UNKNOWN)
    text = f"{service or 'the broker'} at {address} is {status.name}"
    if ready and status is not ServingStatus.SERVING:
        raise CommandError(text)
    return text
