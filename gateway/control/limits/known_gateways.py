"""How many gateways shared the limits when this one last knew: kept for its next start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.keys.state_file import (
    StateFileError,
    make_private,
    open_state_file,
    replace_state_file,
)

MOST: Final = 10_000
_MOST_BYTES: Final = 16


class KnownGateways:
    """A number in a file of `state_dir`. A file that cannot be used counts as none."""

    def __init__(self, folder: Path, on_problem: Callable[[str], None]) -> None:
        self._path = folder / "limits.gateways"
        self._on_problem = on_problem
        self._known = 0

    def read(self) -> int:
        """Return the number, 1 where none is known."""
        try:
            with open_state_file(self._path) as file:
                make_private(file, self._path)
                text = file.read(_MOST_BYTES).strip()
        except FileNotFoundError:
            return 1
        except (OSError, StateFileError) as error:
            self._on_problem(f"{self._path}: it is not used: {error}")
            return 1
        self._known = int(text) if text.isdigit() else 0
        return min(max(1, self._known), MOST)

    def write(self, number: int) -> None:
        """Keep the number, if it is another one."""
        if number == self._known:
            return
        self._known = number
        try:
            replace_state_file(self._path, b"%d\n" % number)
        except (OSError, StateFileError) as error:
            self._on_problem(f"{self._path}: it cannot be written: {error}")
