"""Files for other programs that come with the gateway: alert rules, the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[1]
_INSTALLED: Final = _PACKAGE / "shipped"
_CHECKOUT: Final = _PACKAGE.parent / "deploy"


class MissingFileError(Exception):
    """A file is not where the installation should have put it; the text says what to do."""


def read_shipped(name: str) -> str:
    """Return the text of a file that comes with the gateway.

    Raises `MissingFileError`.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        try:
            return (folder / name).read_text(encoding="utf-8")
        except OSError:
            continue
    text = f"{_INSTALLED / name} is missing: install the gateway again"
    raise MissingFileError(text)
