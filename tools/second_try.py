"""Runs the tests that failed in the last run once more, alone: `python tools/second_try.py`.

Tests share two cores with databases, senders and each other, and some judge what a starved process
looks like. So one that fails there gets a second try, by itself; what fails again has failed, and
so have more than `MOST` at once. The exit code is 0 if all passed now.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")
MOST: Final = 5
"""Of more tests than this, load is not the cause."""


def main() -> int:
    """Run them. Returns the exit code."""
    try:
        failed = list(json.loads(_FAILED.read_text()))
    except (OSError, ValueError):
        failed = []
    if not 0 < len(failed) <= MOST:
        sys.stdout.write(f"no second try: {len(failed)} tests have failed (1 to {MOST} get one)\n")
        return 1
    sys.stdout.write("\n  ".join(["a second try, alone, for", *failed]) + "\n")
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "pytest", *failed], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
