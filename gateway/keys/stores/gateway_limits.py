"""How an edge gateway shares limits and counts quotas: through the center whose keys it follows.

Calls go over a connection of their own, which is made anew after an error. What has not come within
`ANSWER_S` is of no use any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from gateway.keys.errors import StoreForeignError
from gateway.keys.quota_store import QuotaUse, Totals
from gateway.keys.stores.gateway_channel import FeedSource, metadata_of, new_channel
from gateway.keys.stores.gateway_errors import translated
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

ANSWER_S: Final = 2.0
_SERVICE: Final = "/gateway.keys.v1.KeyFeed"
_OLDER: Final = "the central gateway cannot share limits: run the same version of the gateway there"

Response = TypeVar("Response", bound=Message)


class _Connection:
    """A channel, and how many calls are under way on it."""

    __slots__ = ("calls", "channel")

    def __init__(self, source: FeedSource) -> None:
        self.channel = new_channel(source)
        self.calls = 0


class GatewaySide:
    """Calls to the center at `source`, several at a time."""

    def __init__(self, source: FeedSource) -> None:
        self._source = source
        self._present: _Connection | None = None

    async def call(self, method: str, request: Message, response: type[Response]) -> Response:
        """Call a method of the center. Raises `StoreError`."""
        used = self._present = self._present or _Connection(self._source)
        used.calls += 1
        try:
            with translated(self._source.location):
                call: grpc.aio.UnaryUnaryMultiCallable[Message, Response] = (
                    used.channel.unary_unary(
                        f"{_SERVICE}/{method}",
                        request_serializer=type(request).SerializeToString,
                        response_deserializer=response.FromString,
                    )
                )
                return await call(request, timeout=ANSWER_S, metadata=metadata_of(self._source))
        except StoreForeignError as error:
            msg = f"{self._source.location}: {_OLDER}"
            raise StoreForeignError(msg) from error
        except BaseException:
            if self._present is used:
                self._present = None
            raise
        finally:
            used.calls -= 1
            if used is not self._present and not used.calls:
                # Not before: closing would cancel the others' calls, and with them their tasks.
                await used.channel.close()

    async def close(self) -> None:
        """Let go of the connection."""
        used, self._present = self._present, None
        if used is not None and not used.calls:
            await used.channel.close()


class GatewayLimitBoard:
    """A `LimitBoard` that the center has, or asks for."""

    def __init__(self, side: GatewaySide) -> None:
        self._side = side

    async def exchange(self, name: str, report: bytes) -> Mapping[str, bytes]:
        """See `LimitBoard`."""
        request = pb.ShareLimitsRequest(gateway=name, report=report)
        answer = await self._side.call("ShareLimits", request, pb.ShareLimitsResponse)
        return dict(answer.reports)

    async def leave(self, name: str) -> None:
        """See `LimitBoard`."""
        request = pb.ShareLimitsRequest(gateway=name, leaves=True)
        await self._side.call("ShareLimits", request, pb.ShareLimitsResponse)

    async def close(self) -> None:
        """See `LimitBoard`."""
        await self._side.close()


class GatewayQuotaStore:
    """A `QuotaStore` that the center has, or asks for."""

    def __init__(self, side: GatewaySide) -> None:
        self._side = side

    async def add(
        self, used: Mapping[bytes, QuotaUse], asked: Collection[bytes], periods: Collection[str]
    ) -> Totals:
        """See `QuotaStore`."""
        request = pb.CountQuotasRequest(asked=list(asked), periods=list(periods))
        for key, use in used.items():
            request.used.add(key_hash=key, requests=use.requests, body_bytes=use.bytes)
        answer = await self._side.call("CountQuotas", request, pb.CountQuotasResponse)
        return {
            (each.key_hash, each.period): QuotaUse(each.requests, each.body_bytes)
            for each in answer.totals
        }

    async def close(self) -> None:
        """See `QuotaStore`."""
        await self._side.close()
