"""Write `gateway/config/meanings.json`, what each setting means, from the reference page.

Usage: ``.venv/bin/python tools/meanings.py``. Editors show these texts beside the settings. A test
fails where the file is not what this writes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "docs" / "configuration.md"
TARGET: Final = ROOT / "gateway" / "config" / "meanings.json"
_ROW: Final = re.compile(r"^\| `([^`]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)


def plain(text: str) -> str:
    """Take the Markdown out of a text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`([^`]*)`", r"\1", text)
    return re.sub(r"\*([a-z ]+)\*", r"\1", text).replace(r"\|", "|")


def meanings() -> dict[str, str]:
    """Return setting → text, in the order of the page."""
    page = SOURCE.read_text(encoding="utf-8")
    return {setting: plain(meaning) for setting, _, meaning in _ROW.findall(page)}


def text() -> str:
    """Return what the file contains."""
    return json.dumps(meanings(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file. Returns the exit code."""
    TARGET.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
