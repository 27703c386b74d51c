"""The issuers' keys in a file on this host: to start from while an issuer is away.

They are public, but whoever could write the file could sign tokens: mode 0600, replaced as a whole,
and what is damaged or could have been written by other users is not used.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Final

import msgspec

from gateway.keys.state_file import (
    StateFileError,
    make_private,
    open_state_file,
    replace_state_file,
)

NAME: Final = "jwt.keys"
_DAMAGED: Final = "it is damaged, or another version's"


class FetchedKeys(msgspec.Struct, frozen=True):
    """One issuer's key set, as it was sent."""

    content: bytes
    fetched_ms: int
    """Unix milliseconds."""


_encoder: Final = msgspec.json.Encoder(order="deterministic")
_decoder: Final = msgspec.json.Decoder(dict[str, FetchedKeys])


class IssuerKeysFile:
    """The file in `folder`: issuer → keys."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._writing = threading.Lock()

    async def read(self) -> dict[str, FetchedKeys]:
        """Read what was written last, nothing where there is no file. Raises `StateFileError`."""
        return await asyncio.to_thread(self._read)

    async def write(self, keys: dict[str, FetchedKeys]) -> None:
        """Replace the file. Raises `OSError`, `StateFileError`; then the old one stays."""
        await asyncio.to_thread(self._write, _encoder.encode(keys))

    def _read(self) -> dict[str, FetchedKeys]:
        try:
            with open_state_file(self.path) as file:
                make_private(file, self.path)
                content = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateFileError(error.strerror) from error
        try:
            return _decoder.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StateFileError(_DAMAGED) from error

    def _write(self, content: bytes) -> None:
        with self._writing:  # a write whose task was cancelled still goes on
            replace_state_file(self.path, content)
