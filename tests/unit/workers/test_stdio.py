"""What plugins print goes to the log, and nowhere else; real processes, because it is about descriptors."""

import logging
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.bundles import subject, write_bundle
from tests.unit.workers.conftest import Serve
from workers.stdio import LogStream

PROCESS = """
    import logging, os, subprocess, sys
    from workers import stdio
    log = stdio.take_over()
    logging.basicConfig(stream=log, format="%(name)s %(levelname)s %(message)s", level=logging.INFO)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", dedent(PROCESS) + dedent(body)],
        input="what a plugin must not read", capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_everything_printed_is_in_the_log_and_standard_output_is_empty() -> None:
    done = run("""
        print("printed")
        print("wrong", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\\n")
        print("half ", end="")
        print("line")
        os.write(1, b"descriptor\\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        subprocess.run([sys.executable, "-c", "print('given')"], stdout=sys.stdout, check=True)
    """)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "tykpy.plugin INFO printed", "tykpy.plugin WARNING wrong", "tykpy.plugin INFO bytes",
        "tykpy.plugin INFO half line", "descriptor", "child", "given",
    ]  # fmt: skip


def test_there_is_nothing_to_read() -> None:
    done = run("""
        log.write(repr((sys.stdin.read(), os.read(0, 5))) + "\\n")
    """)
    assert done.stderr == "('', b'')\n"


def test_a_log_that_fails_does_not_go_round_for_ever() -> None:
    done = run("""
        class Broken(logging.Handler):
            def emit(self, record):
                print("cannot log", file=sys.stderr)
        logging.getLogger().handlers = [Broken()]
        print("text")
    """)
    assert "cannot log" in done.stderr


def test_a_plugin_cannot_close_the_streams() -> None:
    assert "still" in run('sys.stdout.close()\nprint("still")').stderr


def test_a_line_says_which_bundle_wrote_it(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    source = "@Hook\ndef H(request, session, spec):\n    print('hello')\n    return request, session\n"
    write_bundle(folder / "foo", {"middleware.py": source})
    served = serve()
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", LogStream(logging.INFO, 1))
        served.run(subject("H"))
    assert "foo: hello" in caplog.messages
