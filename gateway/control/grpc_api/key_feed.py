"""`gateway.keys.v1.KeyFeed`: other gateways follow the keys of this one's stores.

A record is looked up when it is sent, so that the newest version goes out and nothing is kept for a
follower but where it is. The transport holds a slow one back; one that is too far behind begins
anew. Static keys, and keys that only an authority knows, are not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from gateway.control.grpc_api.admission import Admission, Context
from gateway.control.grpc_api.feed_log import FeedLog
from gateway.keys.feed_messages import PART, message_of
from gateway.keys.service import KeyService
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyFeed"].full_name
HEARTBEAT_S: Final = 1.0
_MOST_SHOWN: Final = 200

_log = structlog.get_logger("gateway.control")


class KeyFeedService:
    """Serves the keys of `keys`. `is_whole`: whether no authority knows further keys.

    `more` are further methods of the service, by name.
    """

    def __init__(
        self,
        keys: KeyService,
        admission: Admission,
        more: Mapping[str, grpc.RpcMethodHandler[Any, Any]] | None = None,
        *,
        is_whole: bool,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._keys = keys
        self._admission = admission
        self._more = more or {}
        self._is_whole = is_whole
        self._heartbeat_s = heartbeat_s
        self._log = FeedLog(keys.revision)
        keys.subscribe(self._log.note)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server answers with."""
        follow = grpc.unary_stream_rpc_method_handler(
            self._follow,
            request_deserializer=pb.FollowRequest.FromString,
            response_serializer=pb.FollowResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Follow": follow, **self._more})

    async def _follow(
        self, request: pb.FollowRequest, context: Context
    ) -> AsyncIterator[pb.FollowResponse]:
        who = await self._admission.admit(context)
        if not self._keys.is_loaded:
            text = "the keys are not loaded yet: try again"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        changed = self._log.follow()
        follower = _printable(request.follower)
        try:
            resumed = self._can_resume(request)
            _log.info("a gateway follows the keys", gateway=follower, resumed=resumed, by=who)
            async for message in self._messages(request, changed, resumed=resumed):
                yield message
            text = "too many changes were missed: begin anew"
            await context.abort(grpc.StatusCode.ABORTED, text)
        finally:
            self._log.leave(changed)
            _log.info("a gateway follows the keys no more", gateway=follower, by=who)

    def _can_resume(self, request: pb.FollowRequest) -> bool:
        is_same = request.history == self._log.history
        return is_same and self._log.after(request.position) is not None

    async def _messages(
        self, request: pb.FollowRequest, changed: asyncio.Event, *, resumed: bool
    ) -> AsyncIterator[pb.FollowResponse]:
        """Make everything that is sent; ends when the caller is too far behind."""
        position = request.position if resumed else self._log.revision
        digests: Sequence[bytes] = () if resumed else self._keys.stored_digests()
        beginning = pb.Beginning(
            history=self._log.history,
            resumed=resumed,
            store_id=self._keys.store_id or "",
            heartbeat_ms=round(self._heartbeat_s * 1000),
        )
        yield self._message(position, beginning=beginning)
        parts = None if resumed else self._parts(digests)
        while True:
            changed.clear()
            changes = self._log.after(position)
            if changes is None:
                return
            # At least one message, also where only `complete` has changed.
            if self._log.revision != position:
                for message in self._changes(changes, position):
                    yield message
                position = message.position
                continue
            part = None if parts is None else next(parts, None)
            if part is not None:
                yield self._message(position, snapshot_part=part)
                continue
            parts = None
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await changed.wait()
            except TimeoutError:
                yield self._message(position, heartbeat=pb.Heartbeat())

    def _parts(self, digests: Sequence[bytes]) -> Iterator[pb.SnapshotPart]:
        """Make the parts of a snapshot, each of the keys as they are when it is made."""
        for start in range(0, len(digests) or 1, PART):
            records = map(self._keys.stored, digests[start : start + PART])
            keys = [message_of(record) for record in records if record is not None]
            yield pb.SnapshotPart(keys=keys, last=start + PART >= len(digests))

    def _changes(self, digests: Sequence[bytes], position: int) -> Iterator[pb.FollowResponse]:
        """Make the messages of changes; only the last one has the new position."""
        newest = self._log.revision
        for start in range(0, len(digests) or 1, PART):
            changes = pb.Changes()
            for digest in digests[start : start + PART]:
                record = self._keys.stored(digest)
                if record is None:
                    changes.gone.append(digest)
                else:
                    changes.keys.append(message_of(record))
            is_last = start + PART >= len(digests)
            yield self._message(newest if is_last else position, changes=changes)

    def _message(
        self,
        position: int,
        *,
        beginning: pb.Beginning | None = None,
        snapshot_part: pb.SnapshotPart | None = None,
        changes: pb.Changes | None = None,
        heartbeat: pb.Heartbeat | None = None,
    ) -> pb.FollowResponse:
        return pb.FollowResponse(
            revision=self._log.revision,
            position=position,
            complete=self._is_whole and self._keys.is_complete,
            beginning=beginning,
            snapshot_part=snapshot_part,
            changes=changes,
            heartbeat=heartbeat,
        )


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:_MOST_SHOWN])
