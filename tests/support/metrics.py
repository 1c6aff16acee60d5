"""Read `/metrics` as Prometheus does."""

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.broker import RunningBroker, wait_until

Labels = frozenset[tuple[str, str]]


class UnixHttp(http.client.HTTPConnection):
    """A client of an HTTP server on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))

    def get(self, path: str, method: str = "GET", **options: Any) -> http.client.HTTPResponse:
        """Return a response with its head read."""
        self.request(method, path, **options)
        return self.getresponse()


class Metrics:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"{key} comes twice"
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels."""
        wanted = labels.items()
        return sum(value for (one, has), value in self.samples.items() if one == name and wanted <= has)

    def labels_of(self, name: str) -> Iterator[dict[str, str]]:
        """Yield the labels of all samples of a name."""
        return (dict(labels) for one, labels in self.samples if one == name)


class MeteredBroker(RunningBroker):
    """A broker that serves metrics on a socket in its runtime folder."""

    def __init__(self, folder: Path, *flags: str, workers: int = 1) -> None:
        super().__init__(folder, *flags, workers=workers)
        self.http_socket = self.runtime / "metrics.sock"
        self.add_flags("--metrics", f"unix://{self.http_socket}")

    def scrape(self) -> Metrics:
        """Read all metrics, as they are now: the broker may answer with those of 0.1 s ago."""
        asked = time.monotonic()
        with contextlib.closing(UnixHttp(self.http_socket)) as connection:
            while True:
                sent = time.monotonic()
                response = connection.get("/metrics")
                assert response.status == 200
                metrics = Metrics(response.read().decode())
                if metrics("tykpy_snapshot_age_seconds") < sent - asked:
                    return metrics

    def wait_for(self, name: str, more_than: float, **labels: str) -> None:
        """Wait until a sum of samples is above a value."""
        wait_until(
            lambda: self.scrape()(name, **labels) > more_than,
            lambda: f"{name}{labels} is {self.scrape()(name, **labels)}; log:\n{self.log}",
        )
