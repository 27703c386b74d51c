"""Fetch the Debian packages whose programs the bench and the interoperability tests run.

Usage: ``python3 tools/debian.py [PROGRAM …]`` (default: all). Needs ``apt-get`` and ``dpkg-deb``,
but not root: packages are downloaded and unpacked into ``.cache/debian``, with the libraries that
they need and this machine lacks; nothing is installed and no service is started. To use a program
of your own instead, set the environment variable of its name in capitals to its path
(``NGINX=/usr/sbin/nginx``; ``NGINX_STREAM`` for the module ``nginx-stream``).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = PROJECT / ".cache" / "debian"
_ORIGIN: Final = "ORIGIN"
_DAMAGED: Final = "The download is damaged: run this again"


@dataclass(frozen=True)
class Package:
    """The package that has a program.

    Attributes:
        name: the package's name.
        path: the program inside the package.
        is_on_path_enough: whether any program of this name on PATH will do. Not where it is
            measured: there the build matters.
        beside: other packages that hold parts of the program.
        access: what must be allowed with the file: `os.R_OK` for a module that a program loads.
    """

    name: str
    path: str
    is_on_path_enough: bool
    beside: tuple[str, ...] = ()
    access: int = os.X_OK


PROGRAMS: Final = {
    "nginx": Package("nginx", "usr/sbin/nginx", is_on_path_enough=False),
    "prometheus": Package("prometheus", "usr/bin/prometheus", is_on_path_enough=True),
    "pgbouncer": Package("pgbouncer", "usr/sbin/pgbouncer", is_on_path_enough=True),
    "chromium": Package(
        "chromium",
        "usr/lib/chromium/chromium",
        is_on_path_enough=True,
        beside=("chromium-common",),
    ),
    "haproxy": Package("haproxy", "usr/sbin/haproxy", is_on_path_enough=False),
    "nginx-stream": Package(
        "libnginx-mod-stream",
        "usr/lib/nginx/modules/ngx_stream_module.so",
        is_on_path_enough=False,
        access=os.R_OK,
    ),
}


class FetchError(Exception):
    """A program could not be fetched or found; the text says why and what to do."""


def find(program: str) -> Path | None:
    """Return where a program is: as the environment says, unpacked here, or on PATH.

    Raises:
        FetchError: the environment names something that cannot be run.
    """
    package = PROGRAMS[program]
    variable = variable_of(program)
    if given := os.environ.get(variable):
        if not Path(given).is_absolute() or shutil.which(given, package.access) is None:
            text = f"{variable}={given}: this is not the absolute path of a program"
            raise FetchError(text)
        return Path(given)
    unpacked = CACHE / package.name / package.path
    if os.access(unpacked, package.access):
        return unpacked
    found = shutil.which(program) if package.is_on_path_enough else None
    return Path(found) if found is not None else None


def variable_of(program: str) -> str:
    """Return the environment variable that names a program to use instead."""
    return program.upper().replace("-", "_")


def origin(program: Path) -> str:
    """Return where a program comes from: the package and its version, or else its path."""
    for package in PROGRAMS.values():
        if program == CACHE / package.name / package.path:
            return (CACHE / package.name / _ORIGIN).read_text(encoding="utf-8").strip()
    return str(program)


def environment(program: Path) -> dict[str, str]:
    """Return the environment variables with which a program finds the libraries fetched for it."""
    for package in PROGRAMS.values():
        if program == CACHE / package.name / package.path:
            libraries = (CACHE / package.name).glob("usr/lib/*-linux-*/**/*.so*")
            folders = sorted({str(library.parent) for library in libraries})
            return {"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}
    return {}


def fetch(program: str) -> None:
    """Download and unpack the package that has a program: all of it or nothing.

    Raises:
        FetchError: apt-get or dpkg-deb is missing or fails, or the package lacks the program.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".fetching-") as folder:
            _fetch(PROGRAMS[program], Path(folder))
    except FetchError as error:
        text = f"{error}\nOr install {program} yourself and set {variable_of(program)} to its path"
        raise FetchError(text) from error


def _fetch(package: Package, folder: Path) -> None:
    unpacked = folder / "unpacked"
    file = _download(package.name, folder, unpacked)
    version = _field(file, "Version")
    parts = [file, *(_download(each, folder, unpacked) for each in package.beside)]
    _download_libraries(parts, folder, unpacked)
    if not os.access(unpacked / package.path, package.access):
        text = f"the package {package.name} {version} has no {package.path}"
        raise FetchError(text)
    made_by = f"{_distribution()}'s package {package.name} {version}\n"
    (unpacked / _ORIGIN).write_text(made_by, encoding="utf-8")
    target = CACHE / package.name
    shutil.rmtree(target, ignore_errors=True)
    unpacked.rename(target)


def _download(name: str, folder: Path, unpacked: Path) -> Path:
    """Download the package `name` and add what is in it to `unpacked`; return the package's file.

    Raises `FetchError`.
    """
    place = folder / f"package-{name}"
    place.mkdir()
    advice = "Run `apt-get update` and check the network"
    _run(["apt-get", "download", name], place, advice)
    (file,) = place.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(file), str(unpacked)], place, _DAMAGED)
    return file


def _download_libraries(files: list[Path], folder: Path, unpacked: Path) -> None:
    """Add the libraries that packages need and this machine lacks, and those that they need.

    Raises `FetchError`.
    """
    fetched: set[str] = set()
    wanted = [name for file in files for name in _missing_libraries(_field(file, "Depends"))]
    while wanted:
        library = wanted.pop()
        if library not in fetched:
            fetched.add(library)
            wanted += _missing_libraries(_field(_download(library, folder, unpacked), "Depends"))


def _field(file: Path, name: str) -> str:
    return _run(["dpkg-deb", "--field", str(file), name], file.parent, _DAMAGED)


def _missing_libraries(depends: str) -> list[str]:
    """Return the packages of libraries among dependencies that are not installed here."""
    names = [each.partition("|")[0].partition("(")[0].strip() for each in depends.split(",")]
    return [name for name in names if name.startswith("lib") and not _is_installed(name)]


def _is_installed(name: str) -> bool:
    query = shutil.which("dpkg-query")
    if query is None:
        return False
    command = [query, "--show", "--showformat=${db:Status-Status}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout == "installed"


def _run(command: list[str], folder: Path, advice: str) -> str:
    """Return a command's output. Raises FetchError."""
    program = shutil.which(command[0])
    if program is None:
        text = f"{command[0]} is missing: only Debian and Ubuntu have it"
        raise FetchError(text)
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        text = f"{' '.join(command)}: {done.stderr.strip()}\n{advice}"
        raise FetchError(text)
    return done.stdout.strip()


def _distribution() -> str:
    """Return "Debian", "Ubuntu" or what else this machine's system calls itself."""
    try:
        return platform.freedesktop_os_release()["NAME"].split()[0]
    except (OSError, KeyError, IndexError):
        return "Debian"


def main(programs: list[str]) -> int:
    """Fetch what is missing. Returns the exit code."""
    if unknown := set(programs) - set(PROGRAMS):
        sys.stderr.write(f"error: {', '.join(unknown)}: not one of {', '.join(PROGRAMS)}\n")
        return 1
    try:
        for program in programs or PROGRAMS:
            if find(program) is None:
                sys.stdout.write(f"{program}: fetching the package\n")
                sys.stdout.flush()
                fetch(program)
    except FetchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
