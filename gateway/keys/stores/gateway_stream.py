"""One stream of a central gateway's key feed, as it comes in: read by a task, taken from by the
`KeyFeed`.

Parts of the snapshot wait in a short queue, so that the center sends no faster than they are taken
over; changes are gathered, the newest version of each key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, TypeAlias

import grpc
import grpc.aio

from gateway.keys.errors import StoreDamagedError, StoreError, StoreUnavailableError
from gateway.keys.feed_messages import (
    FeedMessageError,
    check_digest,
    parse_response,
    records_of,
)
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes
from gateway.keys.stores.gateway_errors import translated
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

OVERDUE_S: Final = 3.0
"""A center that sends a heartbeat each second and has sent nothing for so long is away."""
_PARTS_WAITING: Final = 8
_DAMAGED: Final = "the stream of keys is damaged"

FollowCall: TypeAlias = "grpc.aio.UnaryStreamCall[pb.FollowRequest, bytes]"


class FeedStream:
    """Made by `open_stream`; `close` ends it. All raise the `StoreError` that it broke on."""

    def __init__(self, call: FollowCall, location: str, first: pb.FollowResponse) -> None:
        self.history: Final = first.beginning.history
        self.store_id: Final = first.beginning.store_id
        self.has_snapshot = not first.beginning.resumed
        """Whether all keys come with it, and nobody has taken them yet."""
        self.position = first.position
        """Everything up to here has been taken with `changes`, or comes with the snapshot."""
        self.is_complete = first.complete
        self._call = call
        self._location = location
        self._error: StoreError | None = None
        self._news = asyncio.Event()
        self._newest = first.position
        self._keys: dict[bytes, KeyRecord] = {}
        self._gone: dict[bytes, None] = {}
        self._parts: deque[tuple[int, list[KeyRecord]]] = deque()
        self._has_all = False
        self._moved = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """End it."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._call.cancel()

    def check(self) -> None:
        """Raise the `StoreError` that the stream broke on, if it did."""
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Wait for the next message, whatever it says. Raises `StoreError`."""
        self.check()
        await self._news.wait()
        self._news.clear()
        self.check()

    def changes(self) -> Changes:
        """Take what has changed since this was last called. Raises `StoreError`."""
        self.check()
        keys, self._keys = self._keys, {}
        gone, self._gone = self._gone, {}
        self.position = self._newest
        return Changes(self.position, [*keys.values()], [*gone])

    async def snapshot(self) -> AsyncGenerator[Changes, None]:
        """Take all keys, in parts; at least one comes. Raises `StoreError`."""
        self.has_snapshot = False
        yield Changes(self.position, [])
        while True:
            async with self._moved:
                await self._moved.wait_for(
                    lambda: self._parts or self._has_all or self._error is not None
                )
                if not self._parts:
                    self.check()
                    return
                revision, records = self._parts.popleft()
                self._moved.notify_all()
            yield Changes(revision, records)

    async def _read(self) -> None:
        try:
            with translated(self._location):
                async for raw in _timely(self._call):
                    await self._take(raw)
        except StoreError as error:
            self._error = error
        finally:
            if self._error is None:
                text = f"{self._location}: the gateway has ended the stream of its keys"
                self._error = StoreUnavailableError(text)
            self._call.cancel()
            self._news.set()
            async with self._moved:
                self._moved.notify_all()

    async def _take(self, raw: bytes) -> None:
        try:
            message = parse_response(raw)
            match message.WhichOneof("event"):
                case "snapshot_part":
                    await self._take_part(message)
                case "changes":
                    self._take_changes(message)
        except FeedMessageError as error:
            msg = f"{self._location}: {_DAMAGED}: {error}"
            raise StoreDamagedError(msg) from error
        self._newest = max(self._newest, message.position)
        self.is_complete = message.complete
        self._news.set()

    async def _take_part(self, message: pb.FollowResponse) -> None:
        records = records_of(message.snapshot_part.keys, message.revision)
        async with self._moved:
            await self._moved.wait_for(lambda: len(self._parts) < _PARTS_WAITING)
            self._parts.append((message.revision, records))
            self._has_all = self._has_all or message.snapshot_part.last
            self._moved.notify_all()

    def _take_changes(self, message: pb.FollowResponse) -> None:
        for record in records_of(message.changes.keys, message.revision):
            self._keys[record.digest] = record
            self._gone.pop(record.digest, None)
        for digest in message.changes.gone:
            self._gone[check_digest(digest)] = None
            self._keys.pop(digest, None)


async def open_stream(call: FollowCall, location: str) -> FeedStream:
    """Wait for the first message of a call. Raises `StoreError`."""
    try:
        with translated(location):
            async with asyncio.timeout(OVERDUE_S):
                raw = await call.read()
            if not isinstance(raw, bytes):
                await _raise_status(call)
                raw = b""
            first = _beginning(raw)
    except FeedMessageError as error:
        call.cancel()
        msg = f"{location}: {_DAMAGED}: {error}"
        raise StoreDamagedError(msg) from error
    except BaseException:
        call.cancel()
        raise
    return FeedStream(call, location, first)


def _beginning(raw: bytes) -> pb.FollowResponse:
    message = parse_response(raw)
    if not message.HasField("beginning"):
        msg = "it does not begin as it should"
        raise FeedMessageError(msg)
    return message


async def _timely(call: FollowCall) -> AsyncIterator[bytes]:
    """Read the messages that follow. Raises `TimeoutError` when none comes for `OVERDUE_S`."""
    while True:
        async with asyncio.timeout(OVERDUE_S):
            raw = await call.read()
        if not isinstance(raw, bytes):
            await _raise_status(call)
            return
        yield raw


async def _raise_status(call: FollowCall) -> None:
    """Raise what ended a call, unless it ended well."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
