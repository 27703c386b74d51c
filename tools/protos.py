"""Generates `gateway/protos` from `proto`: `python tools/protos.py`, after each change of a .proto.

The code is checked in, so that no one who builds or runs the gateway needs a compiler for it.
Modules are named as the files are, below `gateway.protos`; of a service only its description is
generated, because handlers and stubs of our own have types.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import google.rpc  # type: ignore[import-untyped]  # no py.typed in googleapis-common-protos
from grpc_tools import protoc

_CHECKOUT = Path(__file__).parents[1]
PROTO = _CHECKOUT / "proto"
GENERATED = _CHECKOUT / "gateway/protos"
_OWN_IMPORT = re.compile(rb"^(from )((?:gateway|envoy)[.\w]* import \w+_pb2)", re.MULTILINE)
_PACKAGE = b'"""Generated from `proto` by `tools/protos.py`."""\n'


def generate(folder: Path) -> None:
    """Write the modules and their stubs into `folder`, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = [str(file.relative_to(PROTO)) for file in sorted(PROTO.rglob("*.proto"))]
    own = resources.files("grpc_tools") / "_proto"
    shared = Path(google.rpc.__path__[0]).parents[1]
    arguments = ["protoc", f"-I{PROTO}", f"-I{own}", f"-I{shared}"]
    arguments += [f"--python_out={folder}", f"--pyi_out={folder}", *files]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed; see above")
    for file in (*folder.rglob("*_pb2.py"), *folder.rglob("*_pb2.pyi")):
        file.write_bytes(_OWN_IMPORT.sub(rb"\1gateway.protos.\2", file.read_bytes()))
    for package in {folder, *_packages(folder)}:
        (package / "__init__.py").write_bytes(_PACKAGE)


def _packages(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_dir())


if __name__ == "__main__":
    generate(GENERATED)
