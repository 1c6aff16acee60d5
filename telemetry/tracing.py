"""Decides whether this broker traces. Importing it costs nothing; `telemetry.spans` needs the extra `tykpy[otel]`."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

log = logging.getLogger("tykpy.tracing")

EXTRA: Final = "pip install 'tykpy[otel]'"
_EXPORTER_MODULES: Final = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_DEFAULT_ENDPOINT: Final = "http://localhost:4318"
_DEFAULT_SAMPLER: Final = "parentbased_always_on"
_PROTOCOL: Final = "http/protobuf"


class TracingError(Exception):
    """Tracing was asked for and is not possible; the message says what to do."""


def is_on(mode: str, environ: Mapping[str, str]) -> bool:
    """Return whether to trace, given `--tracing` (auto, on or off) and the environment.

    auto: if the environment names an OTLP endpoint or exporter. Then a problem is logged, and tracing is off.

    Raises TracingError for a problem if the mode is on.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if mode == "off" or disabled or exporter == "none" or (mode == "auto" and not (exporter or _endpoint(environ))):
        return False
    problem = _problem(exporter, environ)
    if problem and mode == "on":
        raise TracingError(f"--tracing on: {problem}")
    if problem:
        log.warning("tracing is off: %s", problem)
    return not problem


def shown_endpoint(environ: Mapping[str, str]) -> str:
    """Return the host and port that spans are sent to, without credentials or path."""
    parts = urlsplit(_endpoint(environ) or _DEFAULT_ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def shown_sampler(environ: Mapping[str, str]) -> str:
    """Return the name of the sampler, with its argument if there is one."""
    name, argument = environ.get("OTEL_TRACES_SAMPLER") or _DEFAULT_SAMPLER, environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    return f"{name} ({argument})" if argument else name


def _endpoint(environ: Mapping[str, str]) -> str:
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")


def _problem(exporter: str, environ: Mapping[str, str]) -> str:
    """Return why tracing is not possible, or nothing."""
    if exporter not in ("", "otlp"):
        return f"OTEL_TRACES_EXPORTER is {exporter!r}; tykpy has otlp and none"
    own, common = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = own or common or _PROTOCOL
    if protocol != _PROTOCOL:
        return f"the OTLP protocol is {protocol!r}; tykpy has {_PROTOCOL} (OTEL_EXPORTER_OTLP_PROTOCOL, port 4318)"
    if not _is_url(_endpoint(environ) or _DEFAULT_ENDPOINT):
        # It is not shown: it may contain credentials.
        return "the OTLP endpoint is no URL like http://collector:4318 (OTEL_EXPORTER_OTLP_ENDPOINT)"
    if not all(_is_installed(module) for module in _EXPORTER_MODULES):
        return f"OpenTelemetry is not installed: {EXTRA}"
    return ""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
