"""What plugins print goes to the log, and nowhere else; real processes, because it is about descriptors."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Final

from tests.support.bundles import write_bundle
from tests.support.root import ROOT

PROCESS: Final = """
    import logging, os, subprocess, sys
    from tykpy.telemetry import log
    from tykpy.workers.process import stdio
    stdio.take_over()
    log.open_log(log.Source("worker", 1))
    log.configure_log("info", "console")
"""
HEAD: Final = re.compile(r"^\S+ \S+ (\w+) +\[\d+\] (\S+): ", re.MULTILINE)
"""Of a record: time, level, process, name."""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", dedent(PROCESS) + dedent(body)],
        input="what a plugin must not read", capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_everything_printed_goes_to_the_log() -> None:
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
    assert HEAD.sub(r"\2 \1 ", done.stderr).splitlines() == [
        "tykpy.plugin INFO printed", "tykpy.plugin WARNING wrong", "tykpy.plugin INFO bytes",
        "tykpy.plugin INFO half line", "descriptor", "child", "given",
    ]  # fmt: skip


def test_standard_input_is_empty() -> None:
    assert run("os.write(2, repr((sys.stdin.read(), os.read(0, 5))).encode())").stderr == "('', b'')"


def test_a_log_handler_that_prints_does_not_recurse() -> None:
    done = run("""
        class Broken(logging.Handler):
            def emit(self, record):
                print("cannot log", file=sys.stderr)
        logging.getLogger().handlers = [Broken()]
        logging.getLogger().error("text")
    """)
    assert done.stderr.count("cannot log") == 1


def test_a_plugin_cannot_close_the_streams() -> None:
    assert "still" in run('sys.stdout.close()\nprint("still")').stderr


def test_a_replaced_stream_gets_what_is_printed() -> None:
    done = run("""
        import contextlib, io
        class Tee:
            def __init__(self, stream):
                self.stream = stream
            def write(self, text):
                return self.stream.write(text.upper())
            def flush(self):
                self.stream.flush()
        sys.stdout = tee = Tee(sys.stdout)
        assert sys.stdout is tee
        print("tee")
        with contextlib.redirect_stdout(io.StringIO()) as kept:
            print("kept")
        assert kept.getvalue() == "kept\\n"
        assert sys.stdout is tee
        sys.stdout = sys.__stdout__
        print("original")
        sys.stdout = None
        print("still")
    """)
    assert HEAD.sub("", done.stderr).splitlines() == ["TEE", "original", "still"]


def test_streams_are_replaced_for_one_bundle_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(tmp_path / "bundles" / name, {"middleware.py": f"""
            import io, sys
            if {name == "one"}:
                sys.stdout = sys.stderr = io.StringIO()
            @Hook
            def hook_{name}(request, session, spec):
                print("printed by {name}")
                print("warned by {name}", file=sys.stderr)
                return request, session
        """})  # fmt: skip
    done = run(f"""
        sys.path.append({str(ROOT)!r})
        from pathlib import Path
        from tests.support.bundles import Served, subject
        from tykpy.workers.dispatch.log_fields import running_fields
        log.attribute_records(running_fields)
        served = Served(Path({str(tmp_path)!r}, "bundles"), Path({str(tmp_path)!r}, "unpacked"))
        served.run(subject("hook_one", "one"))
        served.run(subject("hook_two", "two"))
        served.close()
    """)
    assert HEAD.sub("", done.stderr).splitlines() == ["two/hook_two: printed by two", "two/hook_two: warned by two"]
