"""Keep values in one SQLite file (WAL), shared by all workers of a broker.

The file survives the SIGKILL of a writer: its lock ends with it, and uncommitted values are never seen.
`synchronous=NORMAL`: only a checkpoint waits for the disk, a commit does not, and a power cut leaves a sound file,
which OFF does not guarantee.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from tyk.errors import StoreUnavailableError
from tyk.gateway.backend import no_counter
from tyk.gateway.commands import Command, Delete, Expire, Get, Increment, Set, SetIfAbsent
from tykpy.ipc.clock import monotonic
from tykpy.workers.storage.contract import storage_key
from tykpy.workers.storage.failures import FailureLog, Health

FILE_NAME: Final = "storage.sqlite3"
FILE_MODE: Final = 0o600

BUSY_S: Final = 0.5
"""How long a call waits for another writer, who holds the lock for microseconds unless it is stopped meanwhile."""

OPEN_S: Final = 0.3
"""How long to go on opening the file while others do so; with `BUSY_S` less than 1 s, as for Redis."""

OPEN_BUSY_S: Final = 0.1
OPEN_RETRY_S: Final = 0.005
"""SQLite's own waiting does not cover every lock taken while a file is opened for the first time."""

PURGE_EVERY_STORES: Final = 256
"""Expired rows are deleted with the first store of a worker and with every so many later ones, so that neither
short-lived workers nor changes of the clock can prevent it."""
PURGE_ROWS: Final = 1_000
"""Most expired rows that are deleted at a time, so that no store waits long for it."""

WAL_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Size of the WAL above which a store restarts it, and to which the file shrinks back.

SQLite's own checkpoints let others write meanwhile. If four processes write all the time they never catch up, and
the WAL grows without end: to 659 MiB in 5 s. Ours keep writers out for as long as it takes to copy this much.
"""
CHECKPOINT_BUSY_S: Final = 0.02
"""How long a checkpoint waits for readers, while nobody can write: a stopped reader would block it for ever."""
CHECKPOINT_RETRY_S: Final = 0.1
"""Seconds until the next attempt after one that found the WAL in use."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS data (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires_ms INTEGER);
CREATE INDEX IF NOT EXISTS data_expires ON data (expires_ms) WHERE expires_ms IS NOT NULL;
"""
_STORE: Final = (
    "INSERT INTO data (key, value, expires_ms) VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_ms = excluded.expires_ms"
)
_FETCH: Final = "SELECT value FROM data WHERE key = ? AND (expires_ms IS NULL OR expires_ms > ?)"
_STORE_IF_ABSENT: Final = f"{_STORE} WHERE data.expires_ms <= ?"
_DELETE: Final = "DELETE FROM data WHERE key = ? AND (expires_ms IS NULL OR expires_ms > ?)"
_EXPIRE: Final = "UPDATE data SET expires_ms = ? WHERE key = ? AND (expires_ms IS NULL OR expires_ms > ?)"
_INCREMENT: Final = """
INSERT INTO data (key, value, expires_ms) VALUES (:key, CAST(CAST(:amount AS TEXT) AS BLOB), :expires)
ON CONFLICT (key) DO UPDATE SET
    value = CASE WHEN data.expires_ms <= :now THEN excluded.value
        ELSE CAST(CAST(CAST(CAST(data.value AS TEXT) AS INTEGER) + :amount AS TEXT) AS BLOB) END,
    expires_ms = CASE WHEN data.expires_ms <= :now THEN excluded.expires_ms ELSE data.expires_ms END
WHERE data.expires_ms <= :now OR (
    CAST(CAST(CAST(data.value AS TEXT) AS INTEGER) AS TEXT) = CAST(data.value AS TEXT)
    AND typeof(CAST(CAST(data.value AS TEXT) AS INTEGER) + :amount) = 'integer')
RETURNING CAST(value AS TEXT)
"""
"""Returns no row if the value is no integer, or the sum has more than 64 bits (SQLite makes it a float then)."""
_PURGE: Final = "DELETE FROM data WHERE rowid IN (SELECT rowid FROM data WHERE expires_ms <= ? LIMIT ?)"


class SQLiteStorage:
    """A storage in a file; every thread has a connection of its own."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, health: Health | None = None) -> None:
        """Remember where the file is.

        `clock` returns seconds, and must agree between processes and across restarts of the machine: a wall clock.
        """
        self._health = health or Health()
        self._path = folder / FILE_NAME
        self._wal = f"{self._path}-wal"
        self._clock = clock
        self._log = FailureLog()
        self._connections = _Connections(self._path)
        self._stores = 0
        self._next_purge = 0
        """The number of the store that purges."""
        self._next_checkpoint_s = 0.0
        """When the next checkpoint is due (monotonic clock)."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, or for ever if `ttl` is 0 or less."""
        now = self._clock()
        try:
            connection = self._connections.get()
            connection.execute(_STORE, (storage_key(key), value, _expiry_ms(now, ttl)))
            self._tidy(connection, now)
            self._health.works()
        except (sqlite3.Error, OSError) as error:
            self._failed(error, "store_data is lost")

    def fetch(self, key: str) -> bytes:
        """Return the stored value, or an empty one if there is none, it has expired, or the file fails."""
        now_ms = int(self._clock() * 1000)
        try:
            row = self._connections.get().execute(_FETCH, (storage_key(key), now_ms)).fetchone()
            self._health.works()
        except (sqlite3.Error, OSError) as error:
            self._failed(error, "get_data answers empty")
            return b""
        return bytes(row[0]) if row else b""

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store`, each part of it in a statement of its own.

        Raises StoreUnavailableError, StoreValueError.
        """
        try:
            answer = self._carry_out(self._connections.get(), command, self._clock())
            self._health.works()
        except (sqlite3.Error, OSError) as error:
            self._failed(error, f"tyk.store.{command.name} fails")
            raise StoreUnavailableError(f"storage file {self._path}: {type(error).__name__}: {error}") from error
        return answer

    def _carry_out(self, connection: sqlite3.Connection, command: Command, now: float) -> Any:
        now_ms = int(now * 1000)
        if type(command) is not Get:
            self._tidy(connection, now)
        match command:
            case Get(keys):
                rows = [connection.execute(_FETCH, (storage_key(key), now_ms)).fetchone() for key in keys]
                return [bytes(row[0]) if row else None for row in rows]
            case Set(values, ttl):
                expires_ms = _expiry_ms(now, ttl)
                connection.executemany(_STORE, [(storage_key(key), values[key], expires_ms) for key in values])
                return None
            case SetIfAbsent(key, value, ttl):
                parameters = storage_key(key), value, _expiry_ms(now, ttl), now_ms
                return connection.execute(_STORE_IF_ABSENT, parameters).rowcount > 0
            case Delete(keys):
                return sum(connection.execute(_DELETE, (storage_key(key), now_ms)).rowcount for key in keys)
            case Increment(key, amount, ttl):
                named = {"key": storage_key(key), "amount": amount, "now": now_ms, "expires": _expiry_ms(now, ttl)}
                rows = connection.execute(_INCREMENT, named).fetchall()
                if not rows:
                    raise no_counter(key)
                return int(rows[0][0])
            case Expire(key, ttl):
                return connection.execute(_EXPIRE, (_expiry_ms(now, ttl), storage_key(key), now_ms)).rowcount > 0

    def check(self) -> None:
        """Open the file."""
        self.fetch("")

    def close(self) -> None:
        """Close the connections of all threads."""
        self._connections.close_all()

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        if self._stores >= self._next_purge:
            self._purge(connection, now)
        self._stores += 1
        if self._wal_is_large():
            self._restart_wal(connection)

    def _purge(self, connection: sqlite3.Connection, now: float) -> None:
        purged = connection.execute(_PURGE, (int(now * 1000), PURGE_ROWS)).rowcount
        self._next_purge = self._stores + (PURGE_EVERY_STORES if purged < PURGE_ROWS else 1)

    def _wal_is_large(self) -> bool:
        try:
            return os.stat(self._wal).st_size > WAL_LIMIT_BYTES
        except OSError:
            return False

    def _restart_wal(self, connection: sqlite3.Connection) -> None:
        if monotonic() < self._next_checkpoint_s:
            return
        _set_patience(connection, CHECKPOINT_BUSY_S)
        try:
            with closing(connection.execute("PRAGMA wal_checkpoint(RESTART)")) as done:
                (in_use, _, _) = done.fetchone()
        finally:
            _set_patience(connection, BUSY_S)
        if in_use:
            self._next_checkpoint_s = monotonic() + CHECKPOINT_RETRY_S

    def _failed(self, error: Exception, consequence: str) -> None:
        # A new connection may find the file sound again, or a new file.
        self._connections.drop()
        self._health.fails()
        self._log.failed(f"storage file {self._path}: {type(error).__name__}: {error}; {consequence}")


def _expiry_ms(now: float, ttl: float) -> int | None:
    return int((now + ttl) * 1000) if ttl > 0 else None


class _Connections:
    """One open connection per thread; those of ended threads are closed when another thread opens one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_thread: dict[threading.Thread, sqlite3.Connection] = {}
        self._local = threading.local()
        self._closed = False

    def get(self) -> sqlite3.Connection:
        """Return this thread's connection; open one if there is none."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        return connection or self._open()

    def drop(self) -> None:
        """Close this thread's connection, if any."""
        self._local.connection = None
        self._close(threading.current_thread())

    def close_all(self) -> None:
        """Close the connections of all threads."""
        self._closed = True
        self._local = threading.local()
        for thread in list(self._by_thread):
            self._close(thread)

    def _open(self) -> sqlite3.Connection:
        opened = open_file(self._path)
        connection = self._by_thread.setdefault(threading.current_thread(), opened)
        if connection is not opened:
            _close(opened)  # a finalizer that ran meanwhile opened one
        self._local.connection = connection
        if self._closed:
            self.drop()
            raise sqlite3.ProgrammingError("the storage is closed")
        self._close_ended()
        return connection

    def _close_ended(self) -> None:
        for thread in list(self._by_thread):
            if not thread.is_alive():
                self._close(thread)

    def _close(self, thread: threading.Thread) -> None:
        connection = self._by_thread.pop(thread, None)
        if connection is not None:
            _close(connection)


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, or create it; wait up to about `OPEN_S` for other processes that do the same.

    Raises sqlite3.Error, OSError.
    """
    _create(path)
    give_up_s = monotonic() + OPEN_S
    while True:
        connection = sqlite3.connect(path, timeout=OPEN_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except sqlite3.Error as error:
            _close(connection)
            if not _is_busy(error) or monotonic() > give_up_s:
                raise
            time.sleep(OPEN_RETRY_S)
        else:
            _set_patience(connection, BUSY_S)
            return connection


def _create(path: Path) -> None:
    """Create the file with its mode. Do not open an existing one: closing it would drop SQLite's own locks."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL").close()
    connection.execute("PRAGMA synchronous = NORMAL").close()
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}").close()
    connection.execute("PRAGMA wal_autocheckpoint = 0").close()
    with closing(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'data_expires'")) as found:
        if found.fetchone() is None:
            connection.executescript(_SCHEMA)


def _set_patience(connection: sqlite3.Connection, seconds: float) -> None:
    """Set how long statements wait for the locks of other connections."""
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}").close()


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _close(connection: sqlite3.Connection) -> None:
    """Close a connection; a damaged file may fail even here, but has been reported by then."""
    with suppress(sqlite3.Error):
        connection.close()
