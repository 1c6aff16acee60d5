"""The configuration file, its JSON Schema, and variables that no option reads."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from tykpy.broker.config import options, show_value, variable_of
from tykpy.cli import main
from tykpy.commands.config.options import unknown_variables
from tykpy.commands.config.schema import schema

SCHEMA = schema()
VALID = [
    "",
    "workers = 4\nthreads = 'auto'\nreload = true",
    "threads = 2\nlisten = ['tcp://127.0.0.1:0']",
    "queue-bytes = '512MiB'\ntimeout = '1.5s'\nlimit-cpu = '2m'\nmax_age = '12 h'",
    "queue-bytes = 536870912\ntimeout = 1.5\nlimit_cpu = 120",
    "max-message = 0",
    "socket-mode = '0660'",
    "socket-mode = 0o660\nlog-level = 'debug'",
]
INVALID = [
    "worker = 4",
    "config = 'x'",
    "workers = 0",
    "workers = '4'",
    "workers = 2.5",
    "workers = true",
    "threads = 'many'",
    "threads = 49",
    "reload = 1",
    "listen = 'tcp://127.0.0.1:0'",
    "listen = [1]",
    "queue-bytes = '5K'",
    "queue-bytes = 0.5",
    "timeout = '5x'",
    "timeout = true",
    "timeout = 0",
    "max-message = 5",
    "socket-mode = 'rw'",
    "socket-mode = 0o7777",
    "log-level = 'loud'",
    "bundles = 3",
    "[workers]\nnumber = 3",
]


def show(tmp_path: Path, text: str) -> Result:
    """Run `tykpy config show` with a file."""
    (tmp_path / "tykpy.toml").write_text(text)
    return CliRunner().invoke(main, ["config", "show", "--json", "--config", str(tmp_path / "tykpy.toml")])


def is_valid(values: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft7Validator(SCHEMA).is_valid(values))


@pytest.mark.parametrize("text", VALID)
def test_a_good_file_is_taken_and_fits_the_schema(tmp_path: Path, text: str) -> None:
    assert show(tmp_path, text).exit_code == 0
    assert is_valid(tomllib.loads(text))


@pytest.mark.parametrize("text", INVALID)
def test_a_wrong_file_is_refused_and_does_not_fit(tmp_path: Path, text: str) -> None:
    assert show(tmp_path, text).exit_code == 2
    assert not is_valid(tomllib.loads(text))


def test_the_schema_is_one_and_has_every_option() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert {option.name.replace("_", "-") for option in options()} < SCHEMA["properties"].keys()


def test_every_default_fits_the_schema() -> None:
    defaults = {key: found["default"] for key, found in SCHEMA["properties"].items() if "default" in found}
    assert len(defaults) > 20
    assert is_valid(defaults)


def test_every_value_fits_the_schema_as_it_is_shown() -> None:
    shown = {o.name: show_value(o, o.default) for o in options() if "unit" in o.metadata or "octal" in o.metadata}
    assert is_valid(shown)


def test_a_wrong_file_is_explained_without_its_values(tmp_path: Path) -> None:
    assert "unknown option 'workres'; did you mean workers?" in show(tmp_path, "workres = 3").output
    assert "'max_age' is given twice" in show(tmp_path, "max-age = 1\nmax_age = 2").output
    wrong = show(tmp_path, "redis = ['redis://:hidden@h']").output
    assert "'redis' must be of type string" in wrong
    assert "hidden" not in wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# mine\n\ntimeout = '5x'", "line 3: '5x' is not a time: give seconds"),
        ("workers = 2\n'queue-bytes' = '5K'", "line 2: '5K' is not a size: give bytes"),
        ("socket_mode = 'rw'", "line 1: 'rw' is not a mode"),
        ("threads = 2\nlog-level = 'loud'", "line 2: 'loud' is not one of"),
        ("threads = 2\n\nworkres = 3", "line 3: unknown option 'workres'"),
        ("threads = 2\n[workers]\nnumber = 3", "line 2: 'workers' must be of type"),
        ("threads = 2\ntimeout = true", "line 2: 'timeout' must be of type"),
        ("threads = 2\nworkers = 0", "(--workers: FILE, line 2)"),
        ('"w\\u006frkers" = 0', "(--workers: FILE)"),
        ("timeout = 1e400", "line 1: 'inf' is not a time"),
        (f"workers = {'9' * 5_000}", "FILE: "),
        (f"workers = {'[' * 5_000}", "FILE: "),
        ('bundles = "a\\u0000b"', "line 1: 'bundles' contains a NUL character"),
        ('\nlisten = ["unix:///a", "tcp://a\\u0000:80"]', "line 2: 'listen' contains a NUL character"),
        ("runtime-dir = ''", "line 1: the path is empty"),
        ("#" * 2**20 + "\nworkers = 1", "FILE: larger than 1,048,576 bytes"),
    ],
)
def test_a_wrong_value_is_found_by_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    output = show(tmp_path, text).output.replace(str(tmp_path / "tykpy.toml"), "FILE")
    assert said in output
    assert "FILE" in output


def test_all_wrong_options_are_reported_together(tmp_path: Path) -> None:
    """Of the file, the environment and the command line; but not what only follows from them."""
    file = tmp_path / "tykpy.toml"
    file.write_text("workres = 3\ntimeout = '5x'\nadmin-page = true\nmetrics = 5\nqueue-bytes = '1KiB'\nreload = 1\n")
    flags = ["--config", str(file), "--log-level", "loud", "--access-log", "some", "--workers", "0"]
    done = CliRunner(env={"TYKPY_LIMIT_CPU": "x"}).invoke(main, ["config", "show", *flags])
    said = done.output.replace(str(file), "FILE").partition("Error: ")[2].splitlines()
    assert (done.exit_code, said[0]) == (2, "9 options are wrong:")
    expected = [
        "FILE, line 1: unknown option 'workres'; did you mean workers?",
        "FILE, line 4: 'metrics' must be of type string",
        "FILE, line 6: 'reload' must be of type boolean",
        "FILE, line 2: '5x' is not a time",
        "--log-level",
        "--limit-cpu",
        "--workers 0: must be between 1 and",
        "--access-log some: must be off",
        "(--queue-bytes: FILE, line 5)",
    ]
    assert len(said) == 1 + len(expected)
    for text in expected:
        assert sum(text in line for line in said) == 1, text


def test_a_file_of_another_system_is_taken(tmp_path: Path) -> None:
    done = show(tmp_path, "\ufeffworkers = 3\r\nthreads = 2\r\n")
    assert json.loads(done.output)["workers"]["value"] == 3


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_what_is_no_file_is_refused(path: str) -> None:
    done = CliRunner().invoke(main, ["config", "show", "--config", path])
    assert (done.exit_code, f"{path}: " in done.output) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        "config show --workers ٣",
        "config show --workers 1_0",
        "config show --threads ²",
        "config show --timeout ٣",
        "config show --timeout 1_0",
        "config show --max-body ٤٠٩٦",
        "config show --socket-mode ٦٠٠",
        "config show --socket-mode 0_600",
        "config show --access-log slow:٣",
        "scale ٣",
        "stacks 1_0",
        "record --rate ٣ -o none",
        "record --sample ٣% -o none",
        "dev --port ٨",
        "bench --workers ٣",
        "bench --repeat 1_0",
        "bench --threads ²",
        "call --response-status ٢٠٠ pre",
    ],
)
def test_numbers_have_plain_digits(arguments: str) -> None:
    """Python's `int` also takes the digits of other scripts, and underscores."""
    done = CliRunner().invoke(main, arguments.split())
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)


@pytest.mark.parametrize("flag", ["--bundles", "--runtime-dir", "--log-file", "--public-key", "--apis", "--tls-cert"])
def test_an_empty_path_is_not_the_working_directory(flag: str) -> None:
    done = CliRunner().invoke(main, ["config", "show", flag, ""])
    assert (done.exit_code, "the path is empty" in done.output) == (2, True)


def test_a_wrong_flag_is_not_said_to_be_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "tykpy.toml").write_text("timeout = '5s'\nworkers = 3\n")
    for flag in ("--timeout=5x", "--workers=0"):
        done = CliRunner().invoke(main, ["config", "show", "--config", str(tmp_path / "tykpy.toml"), flag])
        assert done.exit_code == 2
        assert "tykpy.toml" not in done.output


def test_unknown_variables_are_named_with_the_nearest() -> None:
    (warning,) = unknown_variables(["TYKPY_WORKRES", "TYKPY_WORKERS", "PATH"])
    assert warning == "the environment variable TYKPY_WORKRES is unknown, and ignored; did you mean TYKPY_WORKERS?"
    (warning,) = unknown_variables(["TYKPY_\x1b[2J"])
    assert warning.startswith(r"the environment variable TYKPY_\x1b[2J is unknown, and ignored")


def test_variables_with_another_purpose_are_not_warned_of() -> None:
    services = "SERVICE_HOST", "SERVICE_PORT_GRPC", "PORT", "PORT_5555_TCP_ADDR", "HEADLESS_PORT_80_TCP"
    ours = [*(variable_of(option.name) for option in options()), "TYKPY_CONFIG", "TYKPY_HANDOVER"]
    assert list(unknown_variables([*ours, *(f"TYKPY_{name}" for name in services), "TYK_KEY"])) == []


def test_the_schema_is_printed() -> None:
    assert json.loads(CliRunner().invoke(main, ["config", "schema"]).output) == SCHEMA
