"""Run the fuzzers: `python -m tests.fuzz [--seconds N] [TARGET...]`, for N seconds each.

What crashes, hangs or takes too much memory is written into the corpus, where `make test` replays it. Everything else
that is new is kept in `.tools/fuzz`, where the next run goes on from.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS
from tests.support.root import ROOT

CORPUS: Final = Path(__file__).parent / "corpus"
WORK: Final = ROOT / ".tools" / "fuzz"
MAX_LENGTH: Final = 4096
"""Bytes of one input."""
HANG_SECONDS: Final = 10
RSS_MIB: Final = 1024


def main() -> int:
    """Fuzz the named targets, each in a process of its own; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        print("the fuzzers need atheris, which is not installed: pip install 'tykpy[fuzz]' (Linux, x86-64)")
        return 1
    failed = [name for name in arguments.targets or TARGETS if _fuzz(name, arguments.seconds)]
    for name in failed:
        print(f"{name}: see the new files in {CORPUS / name}")
    return bool(failed)


def _fuzz(name: str, seconds: int) -> int:
    corpus, findings = WORK / name, CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {seconds} s", flush=True)
    options = {
        "max_total_time": seconds,
        "max_len": MAX_LENGTH,
        "timeout": HANG_SECONDS,
        "rss_limit_mb": RSS_MIB,
        "artifact_prefix": f"{findings}/",
    }
    flags = [f"-{option}={value}" for option, value in options.items()]
    command = [sys.executable, "-m", "tests.fuzz.child", name, str(corpus), str(findings), *flags]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
