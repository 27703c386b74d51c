"""The last known keys of a store in a file on this host, to start from while the store is away.

It holds records (digests, never keys), mode 0600: all of them as they were read, then each change
as it came, so that a key deleted a moment before a crash stays deleted. It is written anew when the
changes outgrow the rest. When the keys were last known to equal the store's stands at a fixed place
and is renewed without touching the rest.

A file that is damaged, of another store, or that other users could have written is not used. A
change whose writing was cut off by a power loss, at the end, is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

from gateway.keys.record import KeyRecord, TenantRecord
from gateway.keys.state_file import (
    StateFileError,
    make_private,
    make_state_folder,
    open_state_file,
)

_MAGIC: Final = b"otlp-gateway keys 1\n"
_TIME_LENGTH: Final = 20
_FRAME_HEAD: Final = 8
"""Length and CRC-32 of what follows, 4 bytes each, most significant first."""
_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_PART: Final = 2_000
_MIN_JOURNAL: Final = 10_000
"""So many changes are appended at least before all is written anew."""


class _Head(msgspec.Struct, tag="head"):
    location: str
    count: int


class _Part(msgspec.Struct, tag="part"):
    records: list[KeyRecord]


class _Tenants(msgspec.Struct, tag="tenants"):
    """A part whose keys all say whose data they send."""

    records: list[TenantRecord]


class _Gone(msgspec.Struct, tag="gone"):
    """Keys that are forgotten."""

    digests: list[bytes]


class _End(msgspec.Struct, tag="end"):
    """All is there; what follows are changes."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Head | _Part | _Tenants | _Gone | _End)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a snapshot holds."""

    synced_ms: int
    """When the keys were last known to equal the store's; Unix milliseconds."""
    records: list[KeyRecord]
    note: str | None = None
    """What is doubtful, for people."""


class SnapshotFile:
    """The snapshot of the store at `location`. `on_problem` is told when writing begins to fail."""

    def __init__(
        self, folder: Path, name: str, location: str, on_problem: Callable[[str], None]
    ) -> None:
        mark = hashlib.sha256(location.encode()).hexdigest()[:12]
        self.path = folder / f"keys-{name}-{mark}.snapshot"
        self.wants_rewriting = asyncio.Event()
        """Set when all should be written anew (`write`)."""
        self._location = location
        self._on_problem = on_problem
        self._is_failing = False
        self._file: IO[bytes] | None = None
        self._queue: list[_Part | _Tenants | _Gone] | None = None
        """Changes that come while all is written anew."""
        self._journal = 0
        self._base = 0

    async def read(self) -> Stored | None:
        """Read the snapshot; None where there is none. Raises `StateFileError`."""
        return await asyncio.to_thread(self._read)

    async def write(self, records: Sequence[KeyRecord], synced_ms: int) -> None:
        """Write all records anew; the old snapshot stays until this one is whole."""
        self.wants_rewriting.clear()
        self._queue = []
        try:
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, records, synced_ms))
            try:
                file = await asyncio.shield(writing)
            except asyncio.CancelledError:
                (await writing).close()  # a thread cannot be cancelled
                raise
        except (OSError, StateFileError) as error:
            self._failed(error)
            return
        finally:
            queued, self._queue = self._queue, None
        self.close()
        self._file, self._base, self._journal = file, len(records), 0
        self._is_failing = False
        self._append(queued)

    def append(self, records: Sequence[KeyRecord], gone: Sequence[bytes] = ()) -> None:
        """Add changes, and then digests to forget; without effect until all was written once."""
        messages: list[_Part | _Tenants | _Gone] = [*_parts(records)]
        if gone:
            messages.append(_Gone(list(gone)))
        if self._queue is not None:
            self._queue += messages
        self._append(messages)

    def _append(self, messages: Sequence[_Part | _Tenants | _Gone]) -> None:
        if self._file is None:
            return
        try:
            for message in messages:
                self._file.write(_frame(message))
        except OSError as error:
            self._lose(error)
            return
        for message in messages:
            self._journal += len(message.digests if isinstance(message, _Gone) else message.records)
        if self._journal > max(_MIN_JOURNAL, self._base):
            self.wants_rewriting.set()

    def touch(self, synced_ms: int) -> None:
        """Note that the keys equal the store's at this moment."""
        if self._file is None:
            return
        try:
            os.pwrite(self._file.fileno(), _time(synced_ms), len(_MAGIC))
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _lose(self, error: OSError) -> None:
        """Give up a file that lacks a change: better none than one that lets a deleted key in."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._failed(error)

    def _failed(self, error: OSError | StateFileError) -> None:
        if not self._is_failing:
            reason = error.strerror if isinstance(error, OSError) else error
            self._on_problem(
                f"{self.path}: the snapshot of the keys cannot be written ({reason}):"
                " while the store is away the gateway cannot be started again"
            )
        self._is_failing = True

    def _write(self, records: Sequence[KeyRecord], synced_ms: int) -> IO[bytes]:
        make_state_folder(self.path.parent)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            file.write(_MAGIC + _time(synced_ms))
            file.write(_frame(_Head(self._location, len(records))))
            for part in _parts(records):
                file.write(_frame(part))
            file.write(_frame(_End()))
            os.fsync(descriptor)
            draft.rename(self.path)
        except BaseException:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        return file

    def _read(self) -> Stored | None:
        try:
            with open_state_file(self.path) as file:
                make_private(file, self.path)
                return self._parse(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFileError(error.strerror) from error

    def _parse(self, file: IO[bytes]) -> Stored:
        start = file.read(len(_MAGIC) + _TIME_LENGTH + 1)
        time = start[len(_MAGIC) : -1]
        if not start.startswith(_MAGIC) or not time.isdigit():
            msg = "it is no snapshot of this version's"
            raise StateFileError(msg)
        records: dict[bytes, KeyRecord] = {}
        count, is_whole, note = -1, False, None
        for message in _frames(file):
            match message:
                case _Head(location, count):
                    if location != self._location:
                        msg = f"it is that of another store ({location})"
                        raise StateFileError(msg)
                case _Part(part) | _Tenants(part) if count >= 0:
                    records.update((record.digest, record) for record in part)
                case _Gone(digests) if is_whole:
                    records = _without(records, digests)
                case _End() if len(records) == count:
                    is_whole = True
                case None if is_whole:
                    note = "its last change was cut off and is dropped"
                case _:
                    break
        else:
            if is_whole:
                return Stored(int(time), list(records.values()), note)
        msg = "it is damaged"
        raise StateFileError(msg)


def _without(records: dict[bytes, KeyRecord], digests: Sequence[bytes]) -> dict[bytes, KeyRecord]:
    for digest in digests:
        records.pop(digest, None)
    return records


def _parts(records: Sequence[KeyRecord]) -> Iterator[_Part | _Tenants]:
    for start in range(0, len(records), _PART):
        part = records[start : start + _PART]
        tenants = [record for record in part if isinstance(record, TenantRecord)]
        if len(tenants) < len(part):
            yield _Part([record for record in part if not isinstance(record, TenantRecord)])
        if tenants:
            yield _Tenants(tenants)


def _time(unix_ms: int) -> bytes:
    return b"%0*d\n" % (_TIME_LENGTH, unix_ms)


def _frame(message: _Head | _Part | _Tenants | _Gone | _End) -> bytes:
    payload = _encoder.encode(message)
    head = len(payload).to_bytes(4, "big") + zlib.crc32(payload).to_bytes(4, "big")
    return head + payload


def _frames(file: IO[bytes]) -> Iterator[_Head | _Part | _Tenants | _Gone | _End | None]:
    """Return each message; None, as the last, where the file ends within one.

    Raises `StateFileError` for what was changed.
    """
    while head := file.read(_FRAME_HEAD):
        length = int.from_bytes(head[:4], "big")
        payload = file.read(length) if length <= _MAX_FRAME_BYTES else b""
        if len(head) < _FRAME_HEAD or len(payload) < length <= _MAX_FRAME_BYTES:
            yield None
            return
        if zlib.crc32(payload) != int.from_bytes(head[4:], "big"):
            msg = "it is damaged"
            raise StateFileError(msg)
        try:
            yield _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            msg = "it is damaged, or another version's"
            raise StateFileError(msg) from error
