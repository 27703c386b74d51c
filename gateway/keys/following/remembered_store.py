"""Which store this host's gateway used last, in a file: the next start uses no other one.

Another store, or a new one where the old one is gone (a volume that is not mounted, a wrong url),
would turn every sender away. Whoever means it removes the file. What cannot be read counts as
nothing remembered, with a warning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.keys.errors import AnotherStoreError, StoreError, StoreMissingError
from gateway.keys.state_file import (
    StateFileError,
    make_private,
    open_state_file,
    replace_state_file,
)

_CONTENT: Final = re.compile(rb"otlp-gateway store 1\n([0-9a-f]{32})\n")
_MOST_BYTES: Final = 1_000


class RememberedStore:
    """The id of the store of kind `name` at `location`, in a file in `folder`.

    `on_problem` is called (text) with what loses no key.
    """

    def __init__(
        self, folder: Path, name: str, location: str, on_problem: Callable[[str], None]
    ) -> None:
        mark = hashlib.sha256(location.encode()).hexdigest()[:12]
        self.path: Final = folder / f"keys-{name}-{mark}.store"
        self._on_problem = on_problem
        self._known: str | None = None

    def read(self, *, for_command: bool = False) -> str | None:
        """Return the store's id; None where none is remembered. `for_command`: as root reads."""
        try:
            with open_state_file(self.path, for_command=for_command) as file:
                if not for_command:
                    make_private(file, self.path)
                content = _CONTENT.fullmatch(file.read(_MOST_BYTES))
            if content is None:
                self._tell("it is damaged")
                return None
        except FileNotFoundError:
            return None
        except (OSError, StateFileError) as error:
            self._tell(error)
            return None
        self._known = content[1].decode()
        return self._known

    def write(self, store_id: str) -> None:
        """Remember the store that is in use."""
        if store_id == self._known:
            return
        self._known = store_id
        try:
            replace_state_file(self.path, b"otlp-gateway store 1\n%s\n" % store_id.encode())
        except (OSError, StateFileError) as error:
            self._on_problem(
                f"{self.path}: it cannot be written ({error}): the next start would take another"
                " store for this one"
            )

    def explained(self, error: StoreError) -> StoreError:
        """Add to an error that says that the store is not the one from before how to use it."""
        if not isinstance(error, AnotherStoreError | StoreMissingError):
            return error
        what = "this one" if isinstance(error, AnotherStoreError) else "a new one"
        return type(error)(
            f"{error}. This gateway used another one here: put that one back (is its volume"
            f" mounted, is it the right server?), or remove {self.path} and restart the gateway to"
            f" use {what}"
        )

    def _tell(self, problem: object) -> None:
        self._on_problem(f"{self.path}: it is not used: {problem}")
