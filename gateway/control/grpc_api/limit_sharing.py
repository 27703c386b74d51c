"""`gateway.keys.v1.KeyFeed`, limits and quotas: edge gateways share them through this one.

What they write goes where this gateway's own reports and sums go: to the database that it shares
with others, else to its own memory and file.
"""

from __future__ import annotations

import re
from typing import Any, Final

import grpc
import grpc.aio

from gateway.control.grpc_api.admission import Admission, Context
from gateway.keys.errors import StoreError
from gateway.keys.limit_board import LimitBoard
from gateway.keys.quota_store import QuotaStore, QuotaUse
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

LONGEST_NAME: Final = 200
_HASH_BYTES: Final = 14
_MOST: Final = 10**18
_PERIODS: Final = (re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"\d{4}-\d{2}"))


class LimitSharingService:
    """Answers for callers that `admission` admits."""

    def __init__(self, board: LimitBoard, quotas: QuotaStore, admission: Admission) -> None:
        self._board = board
        self._quotas = quotas
        self._admission = admission

    def methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return what belongs to the service, by name."""
        return {
            "ShareLimits": grpc.unary_unary_rpc_method_handler(
                self._share,
                request_deserializer=pb.ShareLimitsRequest.FromString,
                response_serializer=pb.ShareLimitsResponse.SerializeToString,
            ),
            "CountQuotas": grpc.unary_unary_rpc_method_handler(
                self._count,
                request_deserializer=pb.CountQuotasRequest.FromString,
                response_serializer=pb.CountQuotasResponse.SerializeToString,
            ),
        }

    async def _share(
        self, request: pb.ShareLimitsRequest, context: Context
    ) -> pb.ShareLimitsResponse:
        await self._admission.admit(context)
        name, board = request.gateway, self._board
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            text = f"gateway: 1 to {LONGEST_NAME} printable characters that name the caller"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        try:
            if request.leaves:
                await board.leave(name)
                return pb.ShareLimitsResponse()
            return pb.ShareLimitsResponse(reports=await board.exchange(name, request.report))
        except StoreError as error:
            return await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _count(
        self, request: pb.CountQuotasRequest, context: Context
    ) -> pb.CountQuotasResponse:
        await self._admission.admit(context)
        if problem := _problem(request):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        used = {each.key_hash: QuotaUse(each.requests, each.body_bytes) for each in request.used}
        try:
            totals = await self._quotas.add(used, request.asked, list(request.periods))
        except StoreError as error:
            return await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        response = pb.CountQuotasResponse()
        for (key, period), use in totals.items():
            response.totals.add(
                key_hash=key, period=period, requests=use.requests, body_bytes=use.bytes
            )
        return response


def _problem(request: pb.CountQuotasRequest) -> str:
    """Return what is wrong with a request, "" for nothing."""
    periods = request.periods
    if len(periods) != len(_PERIODS) or not all(
        pattern.fullmatch(period) for pattern, period in zip(_PERIODS, periods, strict=True)
    ):
        return "periods: a day (2026-11-30) and a month (2026-11)"
    hashes = [*request.asked, *(each.key_hash for each in request.used)]
    if any(len(each) != _HASH_BYTES for each in hashes):
        return f"key_hash, asked: {_HASH_BYTES} bytes each"
    numbers = (number for each in request.used for number in (each.requests, each.body_bytes))
    if any(abs(number) > _MOST for number in numbers):
        return f"requests, body_bytes: at most {_MOST}"
    return ""
