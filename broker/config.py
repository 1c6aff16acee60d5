"""The broker's configuration: one frozen dataclass, validated once.

Command-line flags, `TYKPY_*` environment variables and the TOML file of `--config` all set these fields. The flags of
`tykpy broker` and the table of options in the docs are generated from them.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from tykpy.broker.arriving import HELD_BYTES
from tykpy.broker.errors import AddressError, ConfigError
from tykpy.broker.host.cpus import usable_cpus
from tykpy.broker.net.addresses import ADMIN_SOCKET, check_listen, parse_tcp
from tykpy.broker.refused_sizes import BESIDES_BODIES, MAX_BODY, message_limit
from tykpy.broker.units import parse_time, show_size, show_time
from tykpy.redisclient.address import parse_redis_url
from tykpy.redisclient.errors import RedisURLError

MIB: Final = 1024 * 1024
MAX_MESSAGE: Final = 1024 * MIB
MAX_WORKERS: Final = 512
MAX_THREADS: Final = 48
"""Half of a worker's 96 execution slots (ipc/ring/layout.py); the other half is for `async def` hooks."""
AUTO: Final = "auto"
SLOW: Final = "slow:"
"""Prefix of the time in --access-log."""
_STATSD_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{0,100}", re.ASCII)
FLAG: Final = re.compile(r"--[a-z-]+")
"""A flag in the text of a problem."""
CONFIG_VARIABLE: Final = "TYKPY_CONFIG"
"""Environment variable with the path of the TOML file."""


def default_runtime_dir() -> Path:
    """Return the folder for sockets, the embedded store and unpacked bundles: in /run for root, else the user's own."""
    if os.geteuid() == 0:
        return Path("/run/tykpy")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "tykpy" if base else Path(f"/tmp/tykpy-{os.geteuid()}")


def option(default: Any, text: str, **extra: Any) -> Any:
    """Declare one option: its default, its help text, and what command line, schema and docs need to know.

    `group`: heading of this option and of those after it. `bounds`: smallest and largest value besides the default.
    `unit`: "bytes" or "seconds". `shown_default`: words for a default that depends on the machine or on other options.
    `choices`: all values. `octal`: the value is permissions. `secret`: "login" if the URL may contain a password, "all"
    if the whole URL is secret.
    """
    return field(default=default, repr="secret" not in extra, metadata={"help": text, **extra})


class AccessRule(NamedTuple):
    """Which dispatches are logged."""

    errors_only: bool = False
    slow: float = 0.0
    """Only those that took at least so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """All options of `tykpy broker`. Times are in seconds, sizes in bytes.

    Raises ConfigError with all values that cannot work.
    """

    bundles: Path | None = option(
        None, "Folder with the bundles: folders with a manifest.json, ZIPs or .py files.", group="Bundles"
    )
    public_key: Path | None = option(
        None,
        "PEM file with an RSA public key; bundles that its owner did not sign, or that were altered, are refused.",
    )
    apis: Path | None = option(
        None,
        "Folder with the gateway's API definitions (its app_path), to show the names of bundles and APIs next to MD5s.",
    )
    load_timeout: float = option(
        0.0, "Time limit for loading one bundle, at most --ready-timeout.", unit="seconds", bounds=(0, 3_600),
        shown_default="--ready-timeout",
    )  # fmt: skip
    reload: bool = option(False, "Reload bundles when their files change; for development.")
    require_bundles: str = option(
        "any",
        "Bundles without which the broker is not ready: any (one of those in the folder, if it has any), all, or names"
        " separated by commas.",
    )
    listen: tuple[str, ...] = option(
        (),
        "Address to listen on for the gateway: unix:///path, tcp://host:port or tls://host:port for gRPC. Repeatable.",
        group="Listening",
        shown_default="unix://RUNTIME_DIR/tyk.sock",
    )
    metrics: str | None = option(
        None, "Address to serve metrics on, by HTTP: tcp://host:port or unix:///path.", shown_default="none"
    )
    statsd_host: str | None = option(
        None, "Send metrics to a StatsD server, by UDP: host:port.", shown_default="none"
    )  # fmt: skip
    statsd_prefix: str = option("", "Prefix of the names of StatsD metrics.", shown_default="none")
    admin_page: bool = option(
        False, "Serve a read-only page at / of --metrics: what tykpy top shows, and plots of the last 15 minutes."
    )
    socket_mode: int = option(0o600, "Permissions of Unix sockets, in octal.", octal=True, bounds=(0, 0o777))
    socket_group: str | None = option(None, "Group that owns Unix sockets, by name or number.")
    allow_user: tuple[str, ...] = option(
        (), "User that may connect to Unix sockets, by name or number; then only listed ones may. Repeatable.",
        shown_default="all that permissions allow",
    )  # fmt: skip
    allow_group: tuple[str, ...] = option(
        (), "Group whose members may connect to Unix sockets, by name or number, as with --allow-user. Repeatable.",
        shown_default="all that permissions allow",
    )  # fmt: skip
    tls_cert: Path | None = option(
        None, "PEM file with the certificate of tls:// addresses, and its chain up to the CA."
    )
    tls_key: Path | None = option(None, "PEM file with the key of --tls-cert.", shown_default="in --tls-cert")
    tls_key_passphrase_file: Path | None = option(None, "File with the passphrase of an encrypted key.")
    tls_client_ca: Path | None = option(
        None, "PEM file with CAs. Clients of tls:// addresses then need a certificate issued by one of them."
    )
    max_connections: int = option(
        16_384,
        "Maximum number of open connections; with both gRPC and MessagePack-RPC, each gets half of them.",
        bounds=(2, 1_000_000),
    )
    max_streams: int = option(
        1000,
        "Maximum number of concurrent calls per connection; a gateway queues the rest.",
        bounds=(1, 1_000_000),
    )
    max_connection_age: float = option(
        0.0,
        "Age at which the peer of a gRPC connection is asked to go, a tenth more or less; a client that balances"
        " over several brokers then looks for new ones. Calls under way are answered. 0: never.",
        unit="seconds",
        bounds=(0, 365 * 86_400),
    )
    timeout: float = option(
        10.0,
        "Time limit of a dispatch, queue and hook together.",
        group="Dispatches",
        unit="seconds",
        bounds=(0.001, 86_400),
    )
    hang_grace: float = option(
        1.0,
        "Time for a hook to end after its deadline, before its worker is ended.",
        unit="seconds",
        bounds=(0, 3_600),
    )
    grace: float = option(
        10.0, "Time to finish running dispatches after SIGTERM.", unit="seconds", bounds=(0, 3_600)
    )  # fmt: skip
    queue_size: int = option(
        10_000, "Maximum number of dispatches that wait for a worker.", bounds=(1, 10_000_000)
    )  # fmt: skip
    queue_bytes: int = option(
        HELD_BYTES,
        "Maximum size of all dispatches that wait or run; requests still arriving may take as much again.",
        unit="bytes",
        bounds=(1024, 2**53),
    )
    queue_wait: float = option(
        0.5,
        "Longest wait of a dispatch while the workers are overloaded, or four times the run time of its hook if that is"
        " longer. 0: until its deadline.",
        unit="seconds",
        bounds=(0, 86_400),
    )
    max_body: int = option(
        MAX_BODY,
        "Largest body of a request and of a hook's answer; for a response hook, the bodies of request and response"
        " together.",
        unit="bytes",
        bounds=(1024, (MAX_MESSAGE - BESIDES_BODIES) // 2),
    )
    max_message: int = option(
        0,
        "Largest message in either direction, counted like the gateway's grpc_recv_max_size and grpc_send_max_size."
        " Replaces --max-body.",
        unit="bytes",
        bounds=(1024, MAX_MESSAGE),
        shown_default="twice --max-body, plus 4MiB",
    )
    breaker_cooldown: float = option(
        10.0,
        "Time before a hook that killed three workers is tried again.",
        unit="seconds",
        bounds=(0.001, 3_600),
    )
    workers: int = option(
        min(usable_cpus().number, MAX_WORKERS),
        "Number of worker processes.",
        group="Workers",
        bounds=(1, MAX_WORKERS),
        shown_default="one per CPU of the affinity or cgroup quota",
    )
    threads: int | Literal["auto"] = option(
        AUTO,
        "Hooks that a worker runs at the same time. auto: one that computes or several that wait, learned for each"
        " hook; a number: up to that many of any kind. `async def` hooks do not count.",
        bounds=(1, MAX_THREADS),
    )
    threads_max: int = option(
        32, "Maximum number of threads per worker with --threads auto.", bounds=(1, MAX_THREADS)
    )  # fmt: skip
    ready_timeout: float = option(
        30.0,
        "Time limit for starting a worker, not counting its bundles.",
        unit="seconds",
        bounds=(0.1, 3_600),
    )
    max_requests: int = option(0, "Replace a worker after this many dispatches. 0: never.", bounds=(0, 2**53))
    max_requests_jitter: int = option(
        0,
        "Random extra of up to this many dispatches, so that workers are not all replaced at once.",
        bounds=(0, 2**53),
    )
    max_age: float = option(
        0.0, "Replace a worker after this time. 0: never.", unit="seconds", bounds=(0, 10 * 365 * 86_400)
    )  # fmt: skip
    max_memory: int = option(
        0, "Replace a worker that uses more memory than this. 0: never.", unit="bytes", bounds=(0, 2**53)
    )  # fmt: skip
    limit_memory: int = option(
        0,
        "Address space limit of a worker; a hook that exceeds it gets a MemoryError. 0: no limit.",
        unit="bytes",
        bounds=(0, 2**53),
    )
    limit_cpu: int = option(
        0,
        "CPU time limit since a worker last started a dispatch; exceeding it ends the worker. 0: no limit.",
        unit="seconds",
        bounds=(0, 2**31),
    )
    limit_files: int = option(
        0, "Open file limit of a worker; a hook that exceeds it gets an OSError. 0: no limit.", bounds=(0, 2**20)
    )  # fmt: skip
    redis: str | None = option(
        None,
        "Redis URL of the hooks' store (redis, rediss, unix, redis+sentinel, redis+cluster).",
        group="Storage",
        shown_default="embedded",
        secret="login",
    )
    event_log: bool = option(False, "Log every event that a plugin triggers, at level info.", group="Events")
    event_stream: str | None = option(None, "Redis Stream, in --redis, for every event that a plugin triggers.")
    event_stream_length: int = option(
        100_000, "Approximate number of events that the Redis Stream keeps.", bounds=(1, 1_000_000_000)
    )  # fmt: skip
    event_webhook: str | None = option(
        None, "URL (http or https) to which every event that a plugin triggers is sent, as a JSON POST.", secret="all"
    )
    event_queue: int = option(
        10_000,
        "Maximum number of events waiting for the stream, and as many for the webhook; more are dropped and counted.",
        bounds=(1, 10_000_000),
    )
    event_grace: float = option(
        3.0, "Time to deliver waiting events at shutdown.", unit="seconds", bounds=(0, 3_600)
    )  # fmt: skip
    log_file: Path | None = option(
        None, "File that the log is appended to. SIGUSR1 reopens it, for log rotation.",
        group="Log", shown_default="standard error",
    )  # fmt: skip
    log_format: str = option(
        AUTO, "Format of the log. auto: console on a terminal, JSON otherwise.",
        choices=("auto", "console", "json"),
    )  # fmt: skip
    access_log: str = option(
        "off", "Dispatches that are logged: off, errors, all, or slow: and a time, as in slow:100ms."
    )
    slow_hook: float = option(
        1.0, "Log the stack of a hook that runs for longer, at most once a minute for each hook. 0: never.",
        unit="seconds", bounds=(0, 86_400),
    )  # fmt: skip
    log_level: str = option("info", "Lowest level that is logged.", choices=("debug", "info", "warning", "error"))
    tracing: str = option(
        "auto",
        "Export traces over OTLP/HTTP, with the extra tykpy[otel] and the OTEL_* variables. auto: if the environment"
        " names an OTLP endpoint.",
        group="Tracing",
        choices=("auto", "on", "off"),
    )
    user: str | None = option(
        None, "User to switch to before starting workers, by name or number; needs root.", group="Process"
    )  # fmt: skip
    group: str | None = option(None, "Group to switch to, by name or number.", shown_default="the group of --user")
    runtime_dir: Path = option(
        default_runtime_dir(), "Folder for sockets, the embedded store and unpacked bundles.",
        shown_default="/run/tykpy for root, else the user's own",
    )  # fmt: skip
    event_loop: str = option("uvloop", "Event loop of the broker.", choices=("uvloop", "asyncio"))

    def __post_init__(self) -> None:
        problems: list[str] = []
        for problem in self._problems():
            # What is wrong by itself may be all that is wrong with its combination with others.
            named = set(FLAG.findall(problem))
            if len(named) < 2 or named.isdisjoint(flag for other in problems for flag in FLAG.findall(other)):
                problems.append(problem)
        if problems:
            raise ConfigError(*problems)
        # After the checks above, whose errors show a path as it was given.
        self._make_paths_absolute()
        check_listen([self.admin_address, *self.addresses, *self.metrics_addresses])

    def _problems(self) -> Iterator[str]:
        """Yield what cannot work: values by themselves, then combinations."""
        for each in options():
            yield from _out_of_bounds(each, getattr(self, each.name))
        try:
            _ = self.access_rule
        except ConfigError as error:
            yield str(error)
        if not any(map(str.strip, self.require_bundles.split(","))):
            yield f"--require-bundles {self.require_bundles!r}: must be any, all, or names separated by commas"
        yield from self._wrong_addresses()
        yield from self._wrong_paths()
        yield from self._wrong_combinations()

    def _wrong_addresses(self) -> Iterator[str]:
        if self.metrics is not None and not self.metrics.startswith(("tcp://", "unix:")):
            yield f"--metrics {self.metrics}: is served without TLS; write tcp://host:port or unix:///path"
        if self.statsd_host is not None:
            try:
                host, _ = parse_tcp(f"tcp://{self.statsd_host}")
            except AddressError:
                host = ""
            if not host:
                yield f"--statsd-host {self.statsd_host}: write host:port, for example 127.0.0.1:8125"
        if not _STATSD_PREFIX.fullmatch(self.statsd_prefix):
            yield f"--statsd-prefix {self.statsd_prefix!r}: write up to 100 letters, digits, '.', '_' and '-'"
        if self.redis is not None:
            try:
                parse_redis_url(self.redis)
            except RedisURLError as error:
                yield f"--redis {error}"
        # The error does not show the URL: it may contain the receiver's secret.
        if self.event_webhook is not None and not _is_webhook(self.event_webhook):
            yield "--event-webhook: not a URL like https://host[:port]/path, percent-encoded where needed"

    def _wrong_paths(self) -> Iterator[str]:
        for name, folder in (("bundles", self.bundles), ("apis", self.apis)):
            if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
                yield f"{flag_of(name)} {folder}: not a folder"
        if self.public_key is not None and not os.path.isfile(self.public_key):
            yield f"--public-key {self.public_key}: no such file"
        if self.log_file is not None and not os.path.isdir(self.log_file.parent):
            yield f"--log-file {self.log_file}: no such folder: {self.log_file.parent}"

    def _wrong_combinations(self) -> Iterator[str]:
        if self.admin_page and self.metrics is None:
            yield "--admin-page needs --metrics, the address to serve it on"
        if self.queue_bytes < self.message_limit:
            text = f"less than one message may have: {show_size(self.message_limit)} ({self.message_option})"
            yield f"--queue-bytes {show_size(self.queue_bytes)}: {text}"
        if self.tls_cert is None and any("tls://" in address for address in self.listen):
            yield "--listen tls://...: needs --tls-cert"
        if self.group is not None and self.user is None:
            yield f"--group {self.group}: needs --user"
        if self.event_stream == "":
            yield "--event-stream: a stream needs a name"
        if self.event_stream is not None and not self.event_stream.isprintable():
            # Bytes that are not UTF-8 would fail every delivery.
            yield f"--event-stream {self.event_stream!r}: write printable characters"
        if self.event_stream is not None and self.redis is None:
            yield "--event-stream needs --redis, which says where the stream is"

    def _make_paths_absolute(self) -> None:
        # Broker and workers use the paths later, when a plugin may have changed the working directory.
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, Path):
                try:
                    object.__setattr__(self, option.name, value.absolute())
                except FileNotFoundError as error:
                    text = f"{flag_of(option.name)} {value}: is relative, and the working directory is gone"
                    raise ConfigError(text) from error

    @property
    def access_rule(self) -> AccessRule | None:
        """Which dispatches are logged; None: none. Raises ConfigError."""
        text = self.access_log
        if text in ("off", "errors", "all"):
            return None if text == "off" else AccessRule(errors_only=text == "errors")
        try:
            if text.startswith(SLOW) and (seconds := parse_time(text.removeprefix(SLOW))) > 0:
                return AccessRule(slow=seconds)
        except ValueError:
            pass
        raise ConfigError(f"--access-log {text}: must be off, errors, all, or slow: and a time, as in slow:100ms")

    @property
    def most_threads(self) -> int:
        """Maximum number of threads for hooks in a worker."""
        return self.threads_max if self.threads == AUTO else self.threads

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses to listen on: those of `listen`, or the socket in the runtime folder."""
        return self.listen or (f"unix://{self.runtime_dir}/tyk.sock",)

    @property
    def metrics_addresses(self) -> tuple[str, ...]:
        """The address of `metrics`, if there is one."""
        return () if self.metrics is None else (self.metrics,)

    @property
    def message_limit(self) -> int:
        """Largest message in either direction, in bytes."""
        return self.max_message or message_limit(self.max_body)

    @property
    def message_option(self) -> str:
        """The option that sets `message_limit`, as error messages show it."""
        return (
            "--max-message"
            if self.max_message
            else f"--max-body {show_size(self.max_body)}: text bodies are sent twice"
        )

    @property
    def admin_address(self) -> str:
        """Address of the admin socket, for commands such as `tykpy hooks`."""
        return f"unix://{self.runtime_dir}/{ADMIN_SOCKET}"


def flag_of(name: str) -> str:
    """Return the command-line flag of a field: `--socket-mode` for `socket_mode`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a field: `TYKPY_SOCKET_MODE` for `socket_mode`."""
    return f"TYKPY_{name.upper()}"


def options() -> tuple[Field[Any], ...]:
    """Return the fields of `BrokerConfig`, in the order that help texts and docs show."""
    return fields(BrokerConfig)


def groups() -> dict[str, list[Field[Any]]]:
    """Return the options by the heading that help texts and docs show them under."""
    found: dict[str, list[Field[Any]]] = {}
    for each in options():
        heading = each.metadata.get("group") or next(reversed(found))
        found.setdefault(heading, []).append(each)
    return found


def show_value(option: Field[Any], value: Any) -> str:
    """Return a value of an option as it may be given: `10s`, `48MiB`, `0600`."""
    if isinstance(value, bool):
        return str(value).lower()
    if option.metadata.get("octal"):
        return f"{value:04o}"
    show = {"bytes": show_size, "seconds": show_time}.get(option.metadata.get("unit", ""), str)
    return show(value)


def _is_webhook(url: str) -> bool:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return sound and url.isascii() and url.isprintable() and " " not in url


def _out_of_bounds(option: Field[Any], value: Any) -> Iterator[str]:
    if "bounds" not in option.metadata or value == option.default:
        return
    low, high = option.metadata["bounds"]
    if not low <= value <= high:
        found, least, most = (show_value(option, each) for each in (value, low, high))
        yield f"{flag_of(option.name)} {found}: must be between {least} and {most}"
