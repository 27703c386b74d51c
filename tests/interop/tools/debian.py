"""Fetch the Debian packages whose programs the interoperability tests run.

Usage: ``python3 tests/interop/tools/debian.py``. Needs ``apt-get`` and ``dpkg-deb``, and no rights:
packages are downloaded and unpacked into ``.cache/debian``, nothing is installed and no service
started. A program that is on PATH already is taken as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[3]
CACHE: Final = PROJECT / ".cache" / "debian"
PROGRAMS: Final = {"prometheus": "prometheus"}
"""Program → the package that has it, in /usr/bin."""


class FetchError(Exception):
    """A package could not be fetched; the text says why and what to do."""


def find(name: str) -> Path | None:
    """Return where a program is: on PATH, or unpacked here."""
    unpacked = CACHE / "usr" / "bin" / name
    if os.access(unpacked, os.X_OK):
        return unpacked
    found = shutil.which(name)
    return Path(found) if found is not None else None


def fetch(package: str) -> None:
    """Download and unpack a package (raises FetchError)."""
    downloads = CACHE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for old in downloads.glob(f"{package}_*.deb"):
        old.unlink()
    _run(["apt-get", "download", package], downloads, "run `apt-get update`, check the network")
    (file,) = downloads.glob(f"{package}_*.deb")
    _run(
        ["dpkg-deb", "-x", str(file), str(CACHE)], CACHE, "the download is damaged: run this again"
    )


def _run(command: list[str], folder: Path, advice: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        text = f"{command[0]} is not here: use Debian or Ubuntu, or put the programs on PATH"
        raise FetchError(text)
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        text = f"{' '.join(command)}: {done.stderr.strip()}\n{advice}"
        raise FetchError(text)


def main() -> int:
    """Fetch what is missing. Returns the exit code."""
    for program, package in PROGRAMS.items():
        if find(program) is not None:
            continue
        sys.stdout.write(f"{program}: fetching Debian's package\n")
        try:
            fetch(package)
        except FetchError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
