"""Print the changelog's entry for a tag: `python3 tools/release_notes.py v0.2.0`.

Fails where the tag, the version in pyproject.toml and a dated entry of the changelog do not agree.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_DATE: Final = r"\d{4}-\d{2}-\d{2}"


class ReleaseError(Exception):
    """This tag cannot be released; the text says what to do."""


def notes(tag: str, version: str, changelog: str) -> str:
    """Return the text under the heading of `version`, which `tag` must name.

    Raises:
        ReleaseError: they do not agree, or the entry has no date or no text.

    """
    if tag != f"v{version}":
        text = f"the tag is {tag}, but pyproject.toml says {version}: the tag must be v{version}"
        raise ReleaseError(text)
    found = re.search(
        rf"^## \[{re.escape(version)}\] - {_DATE}\n(.*?)(?=^## |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if found is None or not found[1].strip():
        text = f"CHANGELOG.md has no entry: write '## [{version}] - YYYY-MM-DD' and what is new"
        raise ReleaseError(text)
    return found[1].strip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the notes. Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python3 tools/release_notes.py TAG\n")
        return 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        sys.stdout.write(notes(arguments[0], project["version"], changelog))
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
