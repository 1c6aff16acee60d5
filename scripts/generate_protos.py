"""Generate `tyk/proto/*_pb2.py` and their `.pyi` from the `.proto` files beside them.

Needs the version of grpcio-tools named in `REQUIREMENT`: generated code works with the protobuf runtime of its own
version or later, so the version is pinned to the oldest runtime that tykpy supports. `make proto` runs this.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "grpcio-tools==1.75.1"

PROTO_FOLDER: Final = Path(__file__).resolve().parent.parent / "tyk" / "proto"

_SIBLING_IMPORT: Final = re.compile(r"^import (coprocess_\w+_pb2) as ", re.MULTILINE)
"""protoc writes imports for a folder that is on the path; ours is a package."""

_MODULE_NAME: Final = re.compile(r"(?<=BuildTopDescriptorsAndMessages\(DESCRIPTOR, ')(?=coprocess_)")
"""For the same reason: pickle imports the module that a message names."""

_BARE_MAPPING: Final = re.compile(r"\b_Mapping(?=\])")
"""protoc leaves the keys and values of a nested message's map open, which strict type checking refuses."""

_TYPING_IMPORT: Final = "from typing import ClassVar as _ClassVar"


def main() -> int:
    """Generate everything; the exit code is protoc's."""
    try:
        protoc = importlib.import_module("grpc_tools.protoc")
    except ImportError:
        print(f"{REQUIREMENT} is needed: pip install {REQUIREMENT}", file=sys.stderr)
        return 2
    folder = str(PROTO_FOLDER)
    sources = sorted(path.name for path in PROTO_FOLDER.glob("*.proto"))
    code = protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", f"--pyi_out={folder}", *sources])
    if code == 0:
        for path in _generated():
            path.write_text(adapt(path.read_text(), is_stub=path.suffix == ".pyi"))
    return int(code)


def adapt(text: str, is_stub: bool) -> str:
    """Return generated code with absolute names of modules, and a stub with complete types."""
    text = _SIBLING_IMPORT.sub(r"from tyk.proto import \1 as ", text)
    text = _MODULE_NAME.sub("tyk.proto.", text)
    if is_stub and _BARE_MAPPING.search(text):
        text = _BARE_MAPPING.sub("_Mapping[str, _Any]", text)
        text = text.replace(_TYPING_IMPORT, "from typing import Any as _Any, ClassVar as _ClassVar")
    return text


def _generated() -> Iterator[Path]:
    yield from sorted(PROTO_FOLDER.glob("*_pb2.py"))
    yield from sorted(PROTO_FOLDER.glob("*_pb2.pyi"))


if __name__ == "__main__":
    sys.exit(main())
