"""Whether to trace, by option and environment."""

import pytest

from tykpy.telemetry.tracing import TracingError, is_on, shown_endpoint, shown_sampler

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("mode", "environ", "expected"),
    [
        ("auto", {}, False),
        ("auto", ENDPOINT, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ("auto", ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ("auto", ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, False),
        ("auto", ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ("auto", ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        ("auto", ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, False),
        ("on", {}, True),
        ("on", {"OTEL_SDK_DISABLED": "TRUE"}, False),
        ("off", ENDPOINT, False),
    ],
)
def test_option_and_environment_decide(mode: str, environ: dict[str, str], expected: bool) -> None:
    assert is_on(mode, environ) is expected


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER is 'console'; tykpy has otlp and none"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "protocol is 'grpc'; tykpy has http/protobuf"),
    ],
)
def test_unsupported_settings_are_errors(environ: dict[str, str], text: str) -> None:
    with pytest.raises(TracingError, match=text):
        is_on("on", environ)


@pytest.mark.parametrize(
    "url", ["http://[x", "http://a:b", "http://", "http://a:0", "a:4318", "ftp://a", "user:secret@a"]
)
def test_an_endpoint_that_is_no_url_is_an_error(url: str) -> None:
    with pytest.raises(TracingError, match="the OTLP endpoint is no URL") as caught:
        is_on("on", {"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    assert "secret" not in str(caught.value)
    assert not is_on("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": url})


def test_the_shown_endpoint_has_no_credentials() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://user:secret@collector:4318/v1/traces?key=1"}
    assert shown_endpoint(environ) == "https://collector:4318"
    assert shown_endpoint({}) == "http://localhost:4318"


def test_the_sampler_is_shown_with_its_argument() -> None:
    assert shown_sampler({}) == "parentbased_always_on"
    assert (
        shown_sampler({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}) == "traceidratio (0.1)"
    )
