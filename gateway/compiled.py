"""Whether the data path runs compiled.

`setup.py` compiles the modules of the data path with mypyc; an extension module then stands beside
its source, and Python prefers it. The same sources run without it, as plain Python.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from typing import Final

PURE_PYTHON: Final = "GATEWAY_PURE_PYTHON"
"""Environment variable: with "1" the data path runs as plain Python, and is not compiled."""

PACKAGE: Final = Path(__file__).parent
STAMP: Final = PACKAGE / "compiled.sha256"
"""In a checkout: what was compiled, a line `SHA-256 path` for each source, as sha256sum writes."""


def choose() -> None:
    """Decide, before the first module of the data path is imported, which code runs.

    In a checkout, sources that have changed since they were compiled run as plain Python.
    """
    if os.environ.get(PURE_PYTHON) == "1":
        _import_sources_only()
    elif STAMP.exists() and not is_stamp_true():
        sys.stderr.write(
            "gateway: the sources have changed since they were compiled, so the slower Python code "
            "runs; `make compiled` compiles them again\n"
        )
        _import_sources_only()


def is_compiled() -> bool:
    """Return whether the data path runs compiled."""
    from gateway import outcome  # noqa: PLC0415 - the package decides before it imports a module

    return not outcome.__file__.endswith(".py")


def runs_as() -> str:
    """Return what is said about it to people and in metrics: `compiled` or `python`."""
    return "compiled" if is_compiled() else "python"


def write_stamp(sources: list[str]) -> None:
    """Note what was compiled. Paths are relative to the folder that holds the package."""
    lines = [f"{_digest(PACKAGE.parent / source)}  {source}\n" for source in sorted(sources)]
    STAMP.write_text("".join(lines))


def is_up_to_date() -> bool:
    """Return whether a checkout's data path is compiled for this Python, from today's sources."""
    return (PACKAGE / f"outcome{EXTENSION_SUFFIXES[0]}").exists() and is_stamp_true()


def is_stamp_true() -> bool:
    """Return whether the sources are still those that were compiled."""
    try:
        lines = [line.split() for line in STAMP.read_text().splitlines()]
        return all(_digest(PACKAGE.parent / source) == digest for digest, source in lines)
    except (OSError, ValueError):
        return False


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _import_sources_only() -> None:
    """Have the package's modules imported from their sources, whatever stands beside them."""
    package = str(PACKAGE)

    def finder(path: str) -> FileFinder:
        if path != package and not path.startswith(package + os.sep):
            raise ImportError
        return FileFinder(
            path,
            (SourceFileLoader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )

    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.pop(package, None)
