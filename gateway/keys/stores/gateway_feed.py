"""Keys of a central gateway, followed over gRPC (`gateway+grpcs://HOST:PORT`).

A store that is only read: keys are changed at the center. The stream brings all keys, then each
change; after a break it goes on where it was, if the center still knows what came after that.
A center that has sent nothing for `OVERDUE_S` is away.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from typing import Final

import grpc
import grpc.aio

from gateway.keys.errors import AnotherStoreError, StoreUnavailableError
from gateway.keys.record import KeyRecord
from gateway.keys.store import Changes, KeyStore
from gateway.keys.stores.gateway_channel import FeedSource, metadata_of, new_channel
from gateway.keys.stores.gateway_limits import (
    GatewayLimitBoard,
    GatewayQuotaStore,
    GatewaySide,
)
from gateway.keys.stores.gateway_stream import FeedStream, FollowCall, open_stream
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

_METHOD: Final = "/gateway.keys.v1.KeyFeed/Follow"


def gateway_store(source: FeedSource) -> KeyStore:
    """Make a store of the keys of a central gateway."""
    side = GatewaySide(source)
    return KeyStore(
        GatewayFeed(source),
        limit_board=GatewayLimitBoard(side),
        quota_store=GatewayQuotaStore(side),
        has_snapshot=True,
    )


class GatewayFeed:
    """A `KeyFeed` of a central gateway's keys."""

    name = "gateway"
    is_remote = True
    is_read_only = False

    def __init__(self, source: FeedSource) -> None:
        self.location = source.location
        self._source = source
        self._channel: grpc.aio.Channel | None = None
        self._stream: FeedStream | None = None
        self._only: str | None = None
        self._resume: tuple[str, int] | None = None
        """History and position up to which all is taken over; None: not all keys are."""

    @property
    def is_cut_off(self) -> bool:
        """See `KeyFeed`: the center cannot tell of keys that it does not send."""
        return self._stream is not None and not self._stream.is_complete

    @property
    def store_id(self) -> str | None:
        """See `KeyFeed`: the center's."""
        return self._only

    def use_only(self, store_id: str) -> None:
        """See `KeyFeed`."""
        self._only = store_id

    async def open(self, *, create: bool) -> None:  # noqa: ARG002 - it is never made from here
        """See `KeyFeed`."""
        await self._connect()

    async def close(self) -> None:
        """See `KeyFeed`."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def changes(self, since: int) -> Changes | None:  # noqa: ARG002 - the stream knows it
        """See `KeyFeed`."""
        stream = self._open_stream()
        if stream.has_snapshot or self._resume is None:
            stream.check()
            return None
        changes = stream.changes()
        self._resume = stream.history, changes.revision
        return changes

    async def everything(self) -> AsyncGenerator[Changes, None]:
        """See `KeyFeed`."""
        stream = self._stream
        self._resume = None
        if stream is None or not stream.has_snapshot:
            stream = await self._connect()
        stream.check()
        is_whole = False
        parts = stream.snapshot()
        try:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    if self._resume is None:
                        # From here on `changes` gives what comes, while the rest is read.
                        self._resume = stream.history, stream.position
                    yield part
            is_whole = True
        finally:
            if not is_whole:
                self._resume = None

    async def wait_for_change(self) -> None:
        """See `KeyFeed`."""
        stream = self._stream
        if stream is None:
            await self._connect()
            return
        try:
            await stream.wait()
        except BaseException:
            if self._stream is stream:
                self._stream = None
                await stream.close()
            raise

    async def live(self, after: int = 0, limit: int | None = None) -> list[KeyRecord]:
        """See `KeyFeed`: from a stream of its own."""
        live: list[KeyRecord] = []
        async with contextlib.aclosing(self.everything()) as parts:
            async for part in parts:
                live += [each for each in part.records if each.deleted_at_ms is None]
        return sorted((key for key in live if key.id > after), key=lambda key: key.id)[:limit]

    async def purge(self, deleted_before_ms: int) -> None:
        """See `KeyFeed`: the center does."""

    def _open_stream(self) -> FeedStream:
        if self._stream is None:
            msg = f"{self.location}: the gateway is not connected"
            raise StoreUnavailableError(msg)
        return self._stream

    async def _connect(self) -> FeedStream:
        """Begin a new stream: after what is known, if there is something, else with all keys."""
        await self.close()
        history, position = self._resume or ("", 0)
        stream = await open_stream(self._call(history, position), self.location)
        try:
            self._check_id(stream.store_id)
        except AnotherStoreError:
            await stream.close()
            raise
        if stream.has_snapshot:
            self._resume = None
        self._stream = stream
        return stream

    def _check_id(self, store_id: str) -> None:
        if not store_id:
            return
        if self._only is not None and store_id != self._only:
            msg = f"{self.location}: the gateway has another key store than before"
            raise AnotherStoreError(msg)
        self._only = store_id

    def _call(self, history: str, position: int) -> FollowCall:
        self._channel = channel = new_channel(self._source)
        # Messages are decoded by `FeedStream`: what gRPC cannot decode ends in no error of its own.
        follow: grpc.aio.UnaryStreamMultiCallable[pb.FollowRequest, bytes] = channel.unary_stream(
            _METHOD, request_serializer=pb.FollowRequest.SerializeToString
        )
        who = f"{socket.gethostname()} {os.getpid()}"
        request = pb.FollowRequest(history=history, position=position, follower=who)
        return follow(request, metadata=metadata_of(self._source))
