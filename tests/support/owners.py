"""Files of another user, whether tests run as root or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

STRANGER: Final = 12_345


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `path` another user's; without root, make us another user than its owner."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
