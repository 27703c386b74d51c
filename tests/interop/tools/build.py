"""Build the Go programs that the interoperability tests run, at the versions pinned here.

Usage: ``python3 tests/interop/tools/build.py``. Needs nothing but Python's standard library and Go.

Each folder beside this file is one Go module: its ``go.mod`` and ``go.sum`` pin every version, so
what is built is the same everywhere. The programs land in ``.cache/tools/<hash of the pins>/bin``;
nothing is built again while the pins are unchanged. The last line printed is that folder, for
``OTLP_GATEWAY_TOOLS``. This script does not run any test.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parents[2]
GO_HOME: Final = "/usr/local/go/bin"
"""Where Go's own installer puts it, which is not always on PATH."""
CACHE: Final = PROJECT / ".cache" / "tools"

# -p 2: the build shares its machine with tests; -trimpath: no path of this machine in the programs.
_FLAGS: Final = ("-p", "2", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w")
_ATTEMPTS: Final = 3
# What Go writes when the fault lies between us and the module proxy: another attempt may help.
_NETWORK_FAULTS: Final = (
    "dial tcp",
    "no such host",
    "i/o timeout",
    "connection reset",
    "connection refused",
    "TLS handshake",
    "unexpected EOF",
    "429 Too Many",
    "502 Bad Gateway",
    "503 Service",
    "504 Gateway",
)
_NETWORK_ADVICE: Final = (
    "The Go module proxy could not be reached. Check the network and `go env GOPROXY`, then run "
    "this again: what was downloaded is kept."
)
_PINS_ADVICE: Final = (
    "The pins in this program's go.sum do not match what the proxy served: run `go mod tidy` in "
    "its folder and review the change."
)
_ADVICE: Final = {
    **dict.fromkeys(_NETWORK_FAULTS, _NETWORK_ADVICE),
    "GOPROXY=off": "Downloads are switched off: unset GOPROXY, or set it to a module proxy.",
    "requires go >=": "The installed Go is too old for the pins: install the version named above.",
    "checksum mismatch": _PINS_ADVICE,
    "missing go.sum entry": _PINS_ADVICE,
}
_OTHER_ADVICE: Final = "Run `go build` in the program's folder to see everything that Go says."


class BuildError(Exception):
    """A program could not be built; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: the folder with its pins, the package to build, and Go's build tags."""

    name: str
    package: str
    tags: str = ""

    @property
    def folder(self) -> Path:
        """The Go module that pins this program."""
        return HERE / self.name

    def pins(self) -> list[Path]:
        """Every file that decides what is built, in a fixed order."""
        return sorted(p for p in self.folder.iterdir() if p.suffix in {".go", ".mod", ".sum"})


TOOLS: Final = (
    Tool("otelcol", "."),
    Tool(
        "telemetrygen", "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"
    ),
    Tool("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    # Without the service discoveries, every cloud's SDK: `check metrics` has no use for them.
    Tool("promtool", "github.com/prometheus/prometheus/cmd/promtool", tags="remove_all_sd"),
)


def version_hash(tools: Sequence[Tool] = TOOLS) -> str:
    """Return 16 hex digits that change when any pin, source, tag or flag changes."""
    digest = hashlib.sha256("\0".join(_FLAGS).encode())
    for tool in tools:
        digest.update(f"{tool.name}\0{tool.package}\0{tool.tags}\0".encode())
        for path in tool.pins():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def bin_dir() -> Path:
    """Return the folder of the programs for the present pins, whether built or not."""
    return CACHE / version_hash() / "bin"


def missing(folder: Path, tools: Sequence[Tool] = TOOLS) -> list[str]:
    """Return the names of the programs that are not in ``folder``."""
    return [tool.name for tool in tools if not os.access(folder / tool.name, os.X_OK)]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def find_go(path: str) -> str:
    """Return the ``go`` command among the folders of ``path`` or where its own installer puts it.

    Raises:
        BuildError: it is in neither.

    """
    found = shutil.which("go", path=path + os.pathsep + GO_HOME)
    if found is None:
        message = (
            f"Go is not installed: `go` is neither on PATH nor in {GO_HOME}. "
            "Install Go 1.26 or newer, or point OTLP_GATEWAY_TOOLS at a folder with "
            f"{', '.join(t.name for t in TOOLS)}."
        )
        raise BuildError(message)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``: two runs in one checkout build one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another build is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def explain(tool: Tool, stderr: str) -> str:
    """Return what Go said last about ``tool`` and what to do about it."""
    tail = "\n".join(stderr.strip().splitlines()[-15:])
    advice = next((text for mark, text in _ADVICE.items() if mark in stderr), _OTHER_ADVICE)
    return f"{tool.name} could not be built.\n{tail}\n{advice}"


def _build(go: str, tool: Tool, target: Path) -> None:
    """Build one program into ``target``; it appears there complete or not at all.

    Raises:
        BuildError: Go failed, more than once if the network was the reason.

    """
    partial = target.with_name(f".{tool.name}.partial")
    command = [go, "build", *_FLAGS, f"-tags={tool.tags}", "-o", str(partial), tool.package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    for attempt in range(1, _ATTEMPTS + 1):
        done = subprocess.run(
            command,
            cwd=tool.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            partial.replace(target)
            return
        if attempt == _ATTEMPTS or not any(fault in done.stderr for fault in _NETWORK_FAULTS):
            raise BuildError(explain(tool, done.stderr))
        _say(f"{tool.name}: the module proxy did not answer, attempt {attempt + 1} of {_ATTEMPTS}")
        time.sleep(5 * attempt)


def _forget_old_pins(current: Path) -> None:
    """Remove what was built for other pins: each set of programs takes 100 MB."""
    for other in CACHE.iterdir():
        if other.is_dir() and other != current:
            shutil.rmtree(other)


def build_all() -> Path:
    """Build what is missing and return the folder of the programs.

    Raises:
        BuildError: Go is missing or a build failed; the text says what to do.

    """
    folder = bin_dir()
    with _locked(CACHE / "lock"):
        if wanted := missing(folder):
            go = find_go(os.environ.get("PATH", os.defpath))
            folder.mkdir(parents=True, exist_ok=True)
            for tool in (t for t in TOOLS if t.name in wanted):
                _say(f"{tool.name}: building (the first time this takes a minute or two)")
                started = time.monotonic()
                _build(go, tool, folder / tool.name)
                _say(f"{tool.name}: built in {time.monotonic() - started:.0f} s")
        _forget_old_pins(folder.parent)
    return folder


def main() -> int:
    """Build everything; print the folder as the last line. Returns the exit code."""
    try:
        folder = build_all()
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    _say(str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
