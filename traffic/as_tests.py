"""Write recorded calls as tests that pytest runs with the fixtures of `testing/`."""

import json
import os
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf import json_format

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.traffic.bundle_run import BundleRun, CallResult, reads_of
from tykpy.traffic.errors import ReplayError
from tykpy.traffic.recording import CallRecord

MAX_PER_HOOK: Final = 20
"""Calls that differ in method, path or outcome, of one hook."""
FILE: Final = "test_recorded.py"
CASES: Final = "recorded"
_TEST: Final = '''"""Calls of a recording, and what the bundle answered: written by `tykpy replay --as-tests`.

Remove a file in `recorded` to drop its case; write the recording again to renew all.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tykpy.testing import HookCaller

HERE = Path(__file__).parent
sys.path.insert(0, str((HERE / {bundle}).resolve()))


@pytest.mark.parametrize("case", sorted((HERE / "recorded").glob("*.json")), ids=lambda case: case.stem)
def test_recorded_call(tyk_call: HookCaller, case: Path) -> None:
    call = json.loads(case.read_text())
    hook = getattr(import_module(call["module"]), call["hook"])
    assert tyk_call.object(hook, call["request"], call["reads"]) == call["answer"]
'''


class TestWriter:
    """Keeps calls for tests, and writes them."""

    __test__ = False

    def __init__(self, folder: Path, run: BundleRun) -> None:
        """Raises ReplayError if the folder has tests of a recording already, or the bundle is a ZIP."""
        if (folder / FILE).exists():
            raise ReplayError(f"{folder / FILE} exists; remove it and {folder / CASES}, or choose another folder")
        if run.bundle.suffix == ".zip":
            raise ReplayError(f"{run.bundle} is a ZIP: tests import the bundle's files, so name its folder")
        self._folder = folder
        self._run = run
        self._cases: dict[str, dict[tuple[str, ...], dict[str, object]]] = {}

    def keep(self, _number: int, call: CallRecord, result: CallResult) -> None:
        """Keep a call that was answered, if it is not like one that is kept."""
        if result.answer is None or call.hook not in self._run.hooks:
            return
        obj = Object.FromString(call.request)
        kept = self._cases.setdefault(call.hook, {})
        answer = result.answer.request.return_overrides.response_code
        likeness = (obj.request.method, obj.request.url.partition("?")[0], str(answer))
        if likeness in kept or len(kept) >= MAX_PER_HOOK:
            return
        kept[likeness] = {
            "module": self._module(call.hook),
            "hook": call.hook,
            "reads": msgspec.to_builtins(reads_of(call)),
            "request": _as_map(obj),
            "answer": _as_map(result.answer),
        }

    def write(self) -> int:
        """Write the files, and return the number of cases."""
        cases = self._folder / CASES
        cases.mkdir(parents=True, exist_ok=True)
        root = self._run.bundle if self._run.bundle.is_dir() else self._run.bundle.parent
        path = os.path.relpath(root, self._folder.resolve())
        # ruff wants double quotes.
        literal = f'"{path}"' if path.isprintable() and not {'"', "\\"} & set(path) else repr(path)
        (self._folder / FILE).write_text(_TEST.format(bundle=literal), encoding="utf-8")
        written = 0
        for hook, kept in self._cases.items():
            for number, case in enumerate(kept.values(), 1):
                (cases / f"{hook}-{number:02}.json").write_text(json.dumps(case, indent=2) + "\n")
                written += 1
        return written

    def _module(self, hook: str) -> str:
        file = Path(self._run.hooks[hook]["file"])
        return ".".join(file.relative_to(self._run.root()).with_suffix("").parts)


def _as_map(obj: Object) -> dict[str, object]:
    found: dict[str, object] = json_format.MessageToDict(obj, preserving_proto_field_name=True)
    return found
