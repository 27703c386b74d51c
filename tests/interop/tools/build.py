"""Build the programs that the interoperability tests run, at the versions pinned here.

Usage: ``python3 tests/interop/tools/build.py [PROGRAM …]``, by default all. Needs Python's standard
library, Go, and for one program each Node, Rust and Java: what they are missing for is not built,
or with REQUIRE_TOOLS=1 is an error.

Each folder beside this file is one program with the lock file of its language, which pins every
version, so what is built is the same everywhere. The programs land in
``.cache/tools/<hash of the pins>/bin``; nothing is built again while the pins are unchanged. The
last line printed is that folder, for ``OTLP_GATEWAY_TOOLS``. This script does not run any test.
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
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parents[2]
GO_HOME: Final = "/usr/local/go/bin"
"""Where Go's own installer puts it, which is not always on PATH."""
CACHE: Final = PROJECT / ".cache" / "tools"

# -p 2: the build shares its machine with tests; -trimpath: no path of this machine in the programs.
FLAGS: Final = ("-p", "2", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w")
_ATTEMPTS: Final = 3
# What is written when the fault lies between us and where packages come from: another attempt may
# help. Go's words, then those of npm, cargo and Maven.
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
    "ECONNRESET",
    "ETIMEDOUT",
    "EAI_AGAIN",
    "failed to download",
    "Could not transfer artifact",
)
_NETWORK_ADVICE: Final = (
    "The place that packages come from could not be reached. Check the network and how you have "
    "set up the program above (for Go: `go env GOPROXY`), then run this again: what was downloaded "
    "is kept."
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
_OTHER_ADVICE: Final = (
    "Run `go build` (or `npm ci`, `cargo build`, `mvn dependency:copy-dependencies`) in the "
    "program's folder to see everything that it says."
)
_INSTALL: Final = {
    "node": "Node 20 or newer with npm (apt-get install nodejs npm)",
    "npm": "Node 20 or newer with npm (apt-get install nodejs npm)",
    "cargo": "Rust 1.88 or newer (https://rustup.rs)",
    "mvn": "Maven and a JDK, 17 or newer (apt-get install maven default-jdk-headless)",
    "javac": "a JDK, 17 or newer (apt-get install default-jdk-headless)",
}
_PIN_SUFFIXES: Final = frozenset(
    {".go", ".mod", ".sum", ".json", ".mjs", ".toml", ".rs", ".xml", ".java", ".sha256"}
)


class BuildError(Exception):
    """A program could not be built; the text says why and what to do."""


class MissingLanguageError(BuildError):
    """What builds programs of a language is not installed; the text says how to install it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: the folder with its pins; for Go the package to build, and build tags."""

    name: str
    package: str = "."
    tags: str = ""
    language: Literal["go", "node", "rust", "java"] = "go"

    @property
    def folder(self) -> Path:
        """The folder that pins this program."""
        return HERE / self.name

    def pins(self) -> list[Path]:
        """Every file that decides what is built, in a fixed order."""
        files = (p for p in self.folder.rglob("*") if p.suffix in _PIN_SUFFIXES)
        made = {"node_modules", "target"}  # by somebody who ran a language's own command here
        return sorted(p for p in files if not made & set(p.relative_to(HERE).parts))


TOOLS: Final = (
    Tool("otelcol"),
    Tool(
        "telemetrygen", "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"
    ),
    Tool("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    # Without the service discoveries, every cloud's SDK: `check metrics` has no use for them.
    Tool("promtool", "github.com/prometheus/prometheus/cmd/promtool", tags="remove_all_sd"),
    Tool("helm", "helm.sh/helm/v3/cmd/helm"),
    Tool("kubestrict"),
    Tool("exporter-go"),
    Tool("exporter-node", language="node"),
    Tool("exporter-rust", language="rust"),
    Tool("exporter-java", language="java"),
)


def version_hash(tools: Sequence[Tool] = TOOLS) -> str:
    """Return 16 hex digits that change when any pin, source, tag or flag changes."""
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for tool in tools:
        digest.update(f"{tool.name}\0{tool.package}\0{tool.tags}\0{tool.language}\0".encode())
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
        MissingLanguageError: it is in neither.

    """
    found = shutil.which("go", path=path + os.pathsep + GO_HOME)
    if found is None:
        message = (
            f"Go is not installed: `go` is neither on PATH nor in {GO_HOME}. "
            "Install Go 1.26 or newer, or point OTLP_GATEWAY_TOOLS at a folder with "
            f"{', '.join(t.name for t in TOOLS)}."
        )
        raise MissingLanguageError(message)
    return found


def _find(command: str) -> str:
    """Return the path of a language's command (raises MissingLanguageError)."""
    found = shutil.which(command)
    if found is None:
        message = f"`{command}` is not installed: install {_INSTALL[command]}."
        raise MissingLanguageError(message)
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


def explain(tool: Tool, output: str) -> str:
    """Return what was said last when ``tool`` was built, and what to do about it."""
    tail = "\n".join(output.strip().splitlines()[-15:])
    advice = next((text for mark, text in _ADVICE.items() if mark in output), _OTHER_ADVICE)
    return f"{tool.name} could not be built.\n{tail}\n{advice}"


def _run(tool: Tool, command: Sequence[str | Path], cwd: Path, **environment: str) -> None:
    """Run one step of a build.

    Raises:
        BuildError: it failed, more than once if the network was the reason.

    """
    for attempt in range(1, _ATTEMPTS + 1):
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        if attempt == _ATTEMPTS or not any(fault in done.stdout for fault in _NETWORK_FAULTS):
            raise BuildError(explain(tool, done.stdout))
        _say(f"{tool.name}: a download failed, attempt {attempt + 1} of {_ATTEMPTS}")
        time.sleep(5 * attempt)


def _build_go(tool: Tool, partial: Path, _: Path) -> None:
    go = find_go(os.environ.get("PATH", os.defpath))
    command: list[str | Path] = [
        go,
        "build",
        *FLAGS,
        f"-tags={tool.tags}",
        "-o",
        partial,
        tool.package,
    ]
    _run(tool, command, tool.folder, CGO_ENABLED="0", GOWORK="off")


def _build_node(tool: Tool, partial: Path, home: Path) -> None:
    node, npm = _find("node"), _find("npm")
    for name in ("package.json", "package-lock.json", "main.mjs"):
        shutil.copy(tool.folder / name, home)
    _run(tool, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], home)
    _write_command(partial, f'"{node}" "$home/main.mjs"', home)


def _build_rust(tool: Tool, partial: Path, home: Path) -> None:
    command = [_find("cargo"), "build", "--quiet", "--release", "--jobs=2"]
    _run(tool, [*command, f"--target-dir={home}"], tool.folder)
    shutil.copy(home / "release" / tool.name, partial)
    shutil.rmtree(home)  # 200 MB


def _build_java(tool: Tool, partial: Path, home: Path) -> None:
    maven, compiler = _find("mvn"), _find("javac")
    goal = "dependency:copy-dependencies"
    options = ["--quiet", "--batch-mode", "-DincludeScope=runtime", f"-DoutputDirectory={home}"]
    _run(tool, [maven, *options, goal], tool.folder)
    _check_jars(tool, home)
    _run(tool, [compiler, "-d", home, "-cp", f"{home}/*", "Exporter.java"], tool.folder)
    # The first compiler alone: the program runs for seconds, on CPUs that others need.
    options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    _write_command(partial, f'java {" ".join(options)} -cp "$home:$home/*" Exporter', home)


def _check_jars(tool: Tool, home: Path) -> None:
    """Compare what Maven fetched with ``jars.sha256``, for Maven has no lock file.

    Raises:
        BuildError: a file is another, too many or missing.

    """
    found = {path.name: hashlib.sha256(path.read_bytes()) for path in home.glob("*.jar")}
    lines = sorted(f"{digest.hexdigest()}  {name}\n" for name, digest in found.items())
    pinned = (tool.folder / "jars.sha256").read_text().splitlines(keepends=True)
    if lines != sorted(pinned):
        message = (
            f"{tool.name}: what Maven fetched is not what jars.sha256 names. If you changed "
            f"pom.xml on purpose, this is the file's new text:\n{''.join(lines)}"
        )
        raise BuildError(message)


def _write_command(target: Path, command: str, home: Path) -> None:
    """Write a command that runs what lies in ``home``, a folder beside the one of commands."""
    here = f'home=$(dirname "$0")/../{home.name}'
    target.write_text(f'#!/bin/sh\n{here}\nexec {command} "$@"\n')
    target.chmod(0o755)


_BUILDERS: Final[dict[str, Callable[[Tool, Path, Path], None]]] = {
    "go": _build_go,
    "node": _build_node,
    "rust": _build_rust,
    "java": _build_java,
}


def _build(tool: Tool, folder: Path) -> None:
    """Build one program into ``folder``; it appears there complete or not at all.

    Raises:
        BuildError: it could not be built.

    """
    partial = folder / f".{tool.name}.partial"
    home = folder.with_name(tool.name)
    if tool.language != "go":
        home.mkdir(exist_ok=True)
    _BUILDERS[tool.language](tool, partial, home)
    partial.replace(folder / tool.name)


def _forget_old_pins(current: Path) -> None:
    """Remove what was built for other pins: each set of programs takes 100 MB."""
    for other in CACHE.iterdir():
        if other.is_dir() and other != current:
            shutil.rmtree(other)


def build_all(tools: Sequence[Tool] = TOOLS) -> Path:
    """Build what is missing of ``tools`` and return the folder of all programs.

    Raises:
        BuildError: Go is missing or a build failed; the text says what to do. With
            REQUIRE_TOOLS=1 also where another language is missing.

    """
    folder = bin_dir()
    with _locked(CACHE / "lock"):
        wanted = missing(folder, tools)
        folder.mkdir(parents=True, exist_ok=True)
        for tool in (t for t in tools if t.name in wanted):
            _say(f"{tool.name}: building (the first time this takes a minute or two)")
            started = time.monotonic()
            try:
                _build(tool, folder)
            except MissingLanguageError as error:
                if tool.language == "go" or os.environ.get("REQUIRE_TOOLS") == "1":
                    raise
                _say(f"{tool.name}: not built, and its tests are skipped. {error}")
            else:
                _say(f"{tool.name}: built in {time.monotonic() - started:.0f} s")
        _forget_old_pins(folder.parent)
    return folder


def main(names: Sequence[str]) -> int:
    """Build the named programs, or all, and print the folder last. Returns the exit code."""
    try:
        if unknown := set(names) - {tool.name for tool in TOOLS}:
            message = f"there is no {', '.join(sorted(unknown))} here: give names of folders here"
            raise BuildError(message)  # noqa: TRY301 - told as all that keeps it from building
        folder = build_all([tool for tool in TOOLS if tool.name in names or not names])
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    _say(str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
