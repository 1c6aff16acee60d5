"""Run one fuzzer with libFuzzer's options: `python -m tests.fuzz.child TARGET OPTION...`."""

import sys
from typing import Final

import atheris

INSTRUMENTED: Final = ["broker", "ipc", "workers"]


def main() -> None:
    """Run the fuzzer; never return."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
