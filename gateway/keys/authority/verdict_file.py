"""Which keys an authority has confirmed, in a file on this host: to start from while it is away.

It holds digests, never keys, mode 0600, and is replaced as a whole. What is damaged, of other
authorities, or that other users could have written is not used.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.keys.state_file import (
    StateFileError,
    make_private,
    open_state_file,
    replace_state_file,
)

NAME: Final = "authority.verdicts"
_MAGIC: Final = b"otlp-gateway verdicts 1\n"
_CHECK_BYTES: Final = 4

Confirmed = tuple[bytes, int]
"""A key's digest, and when it was confirmed in Unix milliseconds."""


class _Content(msgspec.Struct, array_like=True):
    authorities: list[str]
    confirmed: list[Confirmed]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Content)


class VerdictFile:
    """The file in `folder` for the authorities at these urls."""

    def __init__(self, folder: Path, authorities: Sequence[str]) -> None:
        self.path = folder / NAME
        self._authorities = list(authorities)
        self._writing = threading.Lock()

    async def read(self) -> list[Confirmed]:
        """Read what was written last, nothing where there is no file. Raises `StateFileError`."""
        return await asyncio.to_thread(self._read)

    async def write(self, confirmed: list[Confirmed]) -> None:
        """Replace the file. Raises `OSError`, `StateFileError`; then the old one stays."""
        await asyncio.to_thread(self._write_alone, confirmed)

    def _read(self) -> list[Confirmed]:
        try:
            with open_state_file(self.path) as file:
                make_private(file, self.path)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateFileError(error.strerror) from error
        payload = content[len(_MAGIC) + _CHECK_BYTES :]
        head = _MAGIC + zlib.crc32(payload).to_bytes(_CHECK_BYTES, "big")
        if not content.startswith(_MAGIC) or content[: len(head)] != head:
            msg = "it is damaged, or another version's"
            raise StateFileError(msg)
        try:
            stored = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            msg = "it is damaged, or another version's"
            raise StateFileError(msg) from error
        if stored.authorities != self._authorities:
            msg = "it is that of other authorities"
            raise StateFileError(msg)
        return stored.confirmed

    def _write_alone(self, confirmed: list[Confirmed]) -> None:
        with self._writing:  # a write whose task was cancelled still goes on
            self._write(confirmed)

    def _write(self, confirmed: list[Confirmed]) -> None:
        payload = _encoder.encode(_Content(self._authorities, confirmed))
        check = zlib.crc32(payload).to_bytes(_CHECK_BYTES, "big")
        replace_state_file(self.path, _MAGIC + check + payload)
