"""The gateway as a user of this distribution installs it: its wheel, on the distribution's Python.

nginx and HAProxy are the distribution's packages, which are built with optimization; so is its
Python. One that a developer has compiled without profile-guided optimization costs a tenth more per
request, and would be measured beside optimized peers. `install` builds the checkout's wheel with
the distribution's Python and installs it with the pinned libraries into `.cache/bench`; nothing
else is touched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.process import ProgramError

_CHECKOUT = Path(__file__).parents[1]
_CACHE = _CHECKOUT / ".cache" / "bench"
_STAMP = "made-from"
PYTHON = Path("/usr/bin/python3")
_LOWEST = (3, 11)
_ABOUT = (
    "import sys, sysconfig, pathlib; print(sys.version_info >= {lowest!r} "
    "and (pathlib.Path(sysconfig.get_path('include')) / 'Python.h').exists())"
)


def command() -> str | None:
    """Return the path of the installed `gateway`, if it is of this checkout's sources."""
    installed = _CACHE / "gateway"
    try:
        stamp = (installed / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return None
    return str(installed / "bin" / "gateway") if stamp == _sources() else None


def origin(program: str) -> str:
    """Return what a `gateway` command is, for the result: an installed one has no path to tell."""
    if Path(program).parent != _CACHE / "gateway" / "bin":
        return program
    return f"installed from its wheel, on {_package()}"


def install() -> None:
    """Build and install, unless that has been done with these sources.

    Raises:
        ProgramError: this machine has no such Python, or something fails; the text says what.
    """
    if command() is not None:
        return
    _check_python()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=_CACHE) as folder:
        wheel = _build(Path(folder))
        target = _CACHE / "gateway"
        shutil.rmtree(target, ignore_errors=True)
        _environment(target, "requirements-runtime.lock")
        _pip(target, "install", "--no-deps", str(wheel))
    (target / _STAMP).write_text(_sources(), encoding="utf-8")


def _build(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that the checkout stays as it is."""
    builder, copy = folder / "build", folder / "sources"
    _environment(builder, "requirements-build.lock")
    copy.mkdir()
    for name in _tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_CHECKOUT / name, copy / name)
    wheels = str(folder / "wheels")
    _pip(builder, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, str(copy))
    (wheel,) = Path(wheels).glob("*.whl")
    return wheel


def _environment(folder: Path, lock: str) -> None:
    _run([str(PYTHON), "-m", "venv", "--without-pip", str(folder)])
    _pip(folder, "install", "--require-hashes", "-r", str(_CHECKOUT / lock))


def _pip(environment: Path, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    _run([*pip, *arguments, "--quiet"])


def _check_python() -> None:
    """Raises ProgramError."""
    if not PYTHON.exists():
        message = f"there is no {PYTHON}: the gateway of this environment is measured instead"
        raise ProgramError(message)
    if _run([str(PYTHON), "-c", _ABOUT.format(lowest=_LOWEST)]).strip() != "True":
        message = (
            f"{PYTHON} is older than 3.11, or its headers are missing (Debian: python3-dev): the "
            "gateway of this environment is measured instead"
        )
        raise ProgramError(message)


def _package() -> str:
    """Name the package that has the Python, or its path where no package manager knows it."""
    real = PYTHON.resolve()
    try:
        owner = _run(["dpkg-query", "--search", str(real)]).partition(":")[0]
        version = _run(["dpkg-query", "--show", "--showformat=${Version}", owner])
    except (ProgramError, OSError):
        return str(real)
    return f"Debian's package {owner} {version}"


def _tracked() -> list[str]:
    """Return the files that make the package, as paths from the root."""
    names = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"]
    folders = ("gateway", "deploy")
    skipped = (".so", ".pyc", ".sha256")
    found: Iterable[Path] = (file for each in folders for file in (_CHECKOUT / each).rglob("*"))
    names += [
        str(file.relative_to(_CHECKOUT))
        for file in found
        if file.is_file() and file.suffix not in skipped
    ]
    return sorted(names)


def _sources() -> str:
    """Return a hash of all that an installation depends on."""
    digest = hashlib.sha256(str(PYTHON.resolve()).encode())
    for name in [*_tracked(), "requirements-runtime.lock", "requirements-build.lock"]:
        digest.update(name.encode() + b"\0" + (_CHECKOUT / name).read_bytes())
    return digest.hexdigest()


def _run(command: list[str]) -> str:
    """Run a command and return what it printed. Raises ProgramError."""
    left_out = ("PYTHON", "VIRTUAL_ENV", "GATEWAY_")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(left_out)
    }
    done = subprocess.run(
        command,
        cwd=_CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProgramError(done.stdout.strip()[-1000:])
    return done.stdout
