"""The broker's configuration: one frozen dataclass, validated once.

Command-line flags, `TYKPY_*` environment variables and the TOML file of `--config` all set these fields. The flags of
`tykpy broker` and the table of options in the docs are generated from them.
"""

import os
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tykpy.broker.arriving import HELD_BYTES
from tykpy.broker.errors import ConfigError
from tykpy.broker.host.cpus import usable_cpus
from tykpy.broker.net.addresses import check_listen
from tykpy.broker.refused_sizes import BESIDES_BODIES, MAX_BODY, message_limit
from tykpy.redisclient.address import parse_redis_url
from tykpy.redisclient.errors import RedisURLError

MIB: Final = 1024 * 1024
MAX_MESSAGE: Final = 1024 * MIB
MAX_WORKERS: Final = 512
MAX_THREADS: Final = 48
"""Half of a worker's 96 execution slots (ipc/ring/layout.py); the other half is for `async def` hooks."""
AUTO: Final = "auto"


def default_runtime_dir() -> Path:
    """Return the folder for sockets, the embedded store and unpacked bundles: in /run for root, else the user's own."""
    if os.geteuid() == 0:
        return Path("/run/tykpy")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "tykpy" if base else Path(f"/tmp/tykpy-{os.geteuid()}")


def option(default: Any, text: str, **extra: Any) -> Any:
    """Declare one option: its default, its help text, and extra settings for the command line.

    `secret`: "login" if the URL may contain a password, "all" if the whole URL is secret.
    """
    return field(default=default, repr="secret" not in extra, metadata={"help": text, **extra})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """All options of `tykpy broker`. Times are in seconds, sizes in bytes.

    Raises ConfigError, which names the option, for a value that cannot work.
    """

    bundles: Path | None = option(None, "Folder with the bundles: folders with a manifest.json, ZIPs or .py files.")
    public_key: Path | None = option(
        None,
        "PEM file with an RSA public key; bundles that its owner did not sign, or that were altered, are refused.",
    )
    apis: Path | None = option(
        None,
        "Folder with the gateway's API definitions (its app_path), to show the names of bundles and APIs next to MD5s.",
    )
    workers: int = option(
        min(usable_cpus().number, MAX_WORKERS),
        "Number of worker processes.",
        shown_default="one per CPU of the affinity or cgroup quota",
    )
    threads: int | Literal["auto"] = option(
        AUTO,
        "Hooks that a worker runs at the same time. auto: one that computes or several that wait, learned for each"
        " hook; a number: up to that many of any kind. `async def` hooks do not count.",
    )
    threads_max: int = option(32, "Maximum number of threads per worker with --threads auto.")
    listen: tuple[str, ...] = option(
        (),
        "Address to listen on for the gateway: unix:///path, tcp://host:port or tls://host:port for gRPC. Repeatable.",
        shown_default="unix://RUNTIME_DIR/tyk.sock",
    )
    socket_mode: int = option(0o600, "Permissions of Unix sockets, in octal.", octal=True)
    socket_group: str | None = option(None, "Group that owns Unix sockets, by name or number.")
    tls_cert: Path | None = option(
        None, "PEM file with the certificate of tls:// addresses, and its chain up to the CA."
    )
    tls_key: Path | None = option(None, "PEM file with the key of --tls-cert.", shown_default="in --tls-cert")
    tls_key_passphrase_file: Path | None = option(None, "File with the passphrase of an encrypted key.")
    tls_client_ca: Path | None = option(
        None, "PEM file with CAs. Clients of tls:// addresses then need a certificate issued by one of them."
    )
    user: str | None = option(None, "User to switch to before starting workers, by name or number; needs root.")
    group: str | None = option(None, "Group to switch to, by name or number.", shown_default="the group of --user")
    allow_user: tuple[str, ...] = option(
        (), "User that may connect to Unix sockets, by name or number; then only listed ones may. Repeatable.",
        shown_default="all that permissions allow",
    )  # fmt: skip
    allow_group: tuple[str, ...] = option(
        (), "Group whose members may connect to Unix sockets, by name or number, as with --allow-user. Repeatable.",
        shown_default="all that permissions allow",
    )  # fmt: skip
    timeout: float = option(10.0, "Time limit of a dispatch, queue and hook together, in seconds.")
    grace: float = option(10.0, "Time to finish running dispatches after SIGTERM, in seconds.")
    hang_grace: float = option(
        1.0, "Time for a hook to end after its deadline, before its worker is ended, in seconds."
    )
    queue_size: int = option(10_000, "Maximum number of dispatches that wait for a worker.")
    queue_bytes: int = option(
        HELD_BYTES,
        "Maximum size of all dispatches that wait or run, in bytes; requests still arriving may take as much again.",
    )
    queue_wait: float = option(
        0.5,
        "Longest wait of a dispatch while the workers are overloaded, in seconds, or four times the run time of its"
        " hook if that is longer. 0: until its deadline.",
    )
    max_body: int = option(
        MAX_BODY,
        "Largest body, in bytes, of a request and of a hook's answer; for a response hook, the bodies of request and"
        " response together.",
    )
    max_message: int = option(
        0,
        "Largest message in either direction, in bytes, counted like the gateway's grpc_recv_max_size and"
        " grpc_send_max_size. Replaces --max-body.",
        shown_default="twice --max-body, plus 4 MiB",
    )
    max_connections: int = option(
        16_384, "Maximum number of open connections; with both gRPC and MessagePack-RPC, each gets half of them."
    )
    max_streams: int = option(1000, "Maximum number of concurrent calls per connection; a gateway queues the rest.")
    ready_timeout: float = option(30.0, "Time limit for starting a worker, not counting its bundles, in seconds.")
    load_timeout: float = option(
        0.0, "Time limit for loading one bundle, in seconds, at most --ready-timeout.", shown_default="--ready-timeout"
    )
    reload: bool = option(False, "Reload bundles when their files change; for development.")
    max_requests: int = option(0, "Replace a worker after this many dispatches. 0: never.")
    max_requests_jitter: int = option(
        0, "Random extra of up to this many dispatches, so that workers are not all replaced at once."
    )
    max_age: float = option(0.0, "Replace a worker after this many seconds. 0: never.")
    max_memory: int = option(0, "Replace a worker that uses more memory than this, in bytes. 0: never.")
    limit_memory: int = option(
        0, "Address space limit of a worker, in bytes; a hook that exceeds it gets a MemoryError. 0: no limit."
    )
    limit_cpu: int = option(
        0,
        "CPU time limit since a worker last started a dispatch, in seconds; exceeding it ends the worker. 0: no limit.",
    )
    limit_files: int = option(0, "Open file limit of a worker; a hook that exceeds it gets an OSError. 0: no limit.")
    breaker_cooldown: float = option(10.0, "Time before a hook that killed three workers is tried again, in seconds.")
    redis: str | None = option(
        None,
        "Redis URL for store_data/get_data (redis, rediss, unix, redis+sentinel, redis+cluster).",
        shown_default="embedded",
        secret="login",
    )
    runtime_dir: Path = option(
        default_runtime_dir(), "Folder for sockets, the embedded store and unpacked bundles.",
        shown_default="/run/tykpy for root, else the user's own",
    )  # fmt: skip
    event_log: bool = option(False, "Log every event that a plugin triggers, at level info.")
    event_stream: str | None = option(None, "Redis Stream, in --redis, for every event that a plugin triggers.")
    event_stream_length: int = option(100_000, "Approximate number of events that the Redis Stream keeps.")
    event_webhook: str | None = option(
        None, "URL (http or https) to which every event that a plugin triggers is sent, as a JSON POST.", secret="all"
    )
    event_queue: int = option(
        10_000,
        "Maximum number of events waiting for the stream, and as many for the webhook; more are dropped and counted.",
    )
    event_grace: float = option(3.0, "Time to deliver waiting events at shutdown, in seconds.")
    log_file: Path | None = option(
        None, "File that the log is appended to. SIGUSR1 reopens it, for log rotation.",
        shown_default="standard error",
    )  # fmt: skip
    log_level: str = option("info", "Lowest level that is logged.", choices=("debug", "info", "warning", "error"))
    event_loop: str = option("uvloop", "Event loop of the broker.", choices=("uvloop", "asyncio"))

    def __post_init__(self) -> None:
        _between("workers", self.workers, 1, MAX_WORKERS)
        if self.threads != AUTO:
            _between("threads", self.threads, 1, MAX_THREADS)
        _between("threads_max", self.threads_max, 1, MAX_THREADS)
        _between("timeout", self.timeout, 0.001, 86_400)
        _between("grace", self.grace, 0, 3_600)
        _between("hang_grace", self.hang_grace, 0, 3_600)
        _between("queue_size", self.queue_size, 1, 10_000_000)
        _between("queue_bytes", self.queue_bytes, 1024, 2**53)
        _between("queue_wait", self.queue_wait, 0, 86_400)
        _between("max_body", self.max_body, 1024, (MAX_MESSAGE - BESIDES_BODIES) // 2)
        if self.max_message:
            _between("max_message", self.max_message, 1024, MAX_MESSAGE)
        _between("max_connections", self.max_connections, 2, 1_000_000)
        _between("max_streams", self.max_streams, 1, 1_000_000)
        _between("ready_timeout", self.ready_timeout, 0.1, 3_600)
        _between("load_timeout", self.load_timeout, 0, 3_600)
        _between("event_stream_length", self.event_stream_length, 1, 1_000_000_000)
        _between("event_queue", self.event_queue, 1, 10_000_000)
        _between("event_grace", self.event_grace, 0, 3_600)
        _between("socket_mode", self.socket_mode, 0, 0o777)
        _between("max_requests", self.max_requests, 0, 2**53)
        _between("max_requests_jitter", self.max_requests_jitter, 0, 2**53)
        _between("max_age", self.max_age, 0, 10 * 365 * 86_400)
        _between("max_memory", self.max_memory, 0, 2**53)
        _between("limit_memory", self.limit_memory, 0, 2**53)
        _between("limit_cpu", self.limit_cpu, 0, 2**31)
        _between("limit_files", self.limit_files, 0, 2**20)
        _between("breaker_cooldown", self.breaker_cooldown, 0.001, 3_600)
        if self.queue_bytes < self.message_limit:
            text = f"less than one message may have: {self.message_limit} ({self.message_option})"
            raise ConfigError(f"--queue-bytes {self.queue_bytes}: {text}")
        if self.tls_cert is None and any("tls://" in address for address in self.listen):
            raise ConfigError("--listen tls://...: needs --tls-cert")
        if self.group is not None and self.user is None:
            raise ConfigError(f"--group {self.group}: needs --user")
        if self.bundles is not None and os.path.exists(self.bundles) and not os.path.isdir(self.bundles):
            raise ConfigError(f"--bundles {self.bundles}: not a folder")
        if self.apis is not None and os.path.exists(self.apis) and not os.path.isdir(self.apis):
            raise ConfigError(f"--apis {self.apis}: not a folder")
        if self.public_key is not None and not os.path.isfile(self.public_key):
            raise ConfigError(f"--public-key {self.public_key}: no such file")
        if self.log_file is not None and not os.path.isdir(self.log_file.parent):
            raise ConfigError(f"--log-file {self.log_file}: no such folder: {self.log_file.parent}")
        if self.redis is not None:
            _check_redis(self.redis)
        if self.event_stream is not None:
            _check_stream(self.event_stream, self.redis)
        if self.event_webhook is not None:
            _check_webhook(self.event_webhook)
        # After the checks above, whose errors show a path as it was given.
        self._make_paths_absolute()
        check_listen([self.admin_address, *self.addresses])

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
    def most_threads(self) -> int:
        """Maximum number of threads for hooks in a worker."""
        return self.threads_max if self.threads == AUTO else self.threads

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses to listen on: those of `listen`, or the socket in the runtime folder."""
        return self.listen or (f"unix://{self.runtime_dir}/tyk.sock",)

    @property
    def message_limit(self) -> int:
        """Largest message in either direction, in bytes."""
        return self.max_message or message_limit(self.max_body)

    @property
    def message_option(self) -> str:
        """The option that sets `message_limit`, as error messages show it."""
        return "--max-message" if self.max_message else f"--max-body {self.max_body}: text bodies are sent twice"

    @property
    def admin_address(self) -> str:
        """Address of the admin socket, for commands such as `tykpy hooks`."""
        return f"unix://{self.runtime_dir}/admin.sock"


def flag_of(name: str) -> str:
    """Return the command-line flag of a field: `--socket-mode` for `socket_mode`."""
    return "--" + name.replace("_", "-")


def options() -> tuple[Field[Any], ...]:
    """Return the fields of `BrokerConfig`, in the order that help texts and docs show."""
    return fields(BrokerConfig)


def _check_redis(url: str) -> None:
    try:
        parse_redis_url(url)
    except RedisURLError as error:
        raise ConfigError(f"--redis {error}") from error


def _check_stream(name: str, redis: str | None) -> None:
    if not name:
        raise ConfigError("--event-stream: a stream needs a name")
    if redis is None:
        raise ConfigError("--event-stream needs --redis, which says where the stream is")


def _check_webhook(url: str) -> None:
    # The error does not show the URL: it may contain the receiver's secret.
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("--event-webhook: not a URL like https://host[:port]/path, percent-encoded where needed")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag_of(name)} {value}: must be between {low} and {high}")
