"""Writes tests/gateway/internal/coprocess: run `python -m tests.support.gateway.write_go_protos` for new .proto files.

Needs Go, and the grpcio-tools that `make proto` needs.
"""

import importlib
import os
import subprocess
import sys
from typing import Final

from scripts.generate_protos import PROTO_FOLDER, REQUIREMENT
from tests.support.gateway.go_gateway import MODULE, PROGRAMS

PLUGINS: Final = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0",
)
GO_MODULE: Final = "tykpy.test/gateway"
GO_PACKAGE: Final = f"{GO_MODULE}/internal/coprocess"


def main() -> int:
    """Generate everything; the exit code is protoc's."""
    try:
        protoc = importlib.import_module("grpc_tools.protoc")
    except ImportError:
        print(f"{REQUIREMENT} is needed: pip install {REQUIREMENT}", file=sys.stderr)
        return 2
    for plugin in PLUGINS:
        subprocess.run(["go", "install", plugin], env={**os.environ, "GOBIN": str(PROGRAMS)}, check=True)
    os.environ["PATH"] = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    sources = sorted(path.name for path in PROTO_FOLDER.glob("*.proto"))
    options = [f"--{kind}_opt=M{name}={GO_PACKAGE}" for kind in ("go", "go-grpc") for name in sources]
    for kind in ("go", "go-grpc"):
        options += [f"--{kind}_out={MODULE}", f"--{kind}_opt=module={GO_MODULE}"]
    return int(protoc.main(["protoc", f"-I{PROTO_FOLDER}", *options, *sources]))


if __name__ == "__main__":
    sys.exit(main())
