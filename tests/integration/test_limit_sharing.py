"""How edges share limits and quotas through a center: the calls, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.keys.errors import StoreDeniedError, StoreError, StoreForeignError
from gateway.keys.limit_board import MemoryBoard
from gateway.keys.quota_store import QuotaUse
from gateway.keys.stores.gateway_channel import FeedSource, metadata_of, new_channel
from gateway.keys.stores.gateway_limits import (
    ANSWER_S,
    GatewayLimitBoard,
    GatewayQuotaStore,
    GatewaySide,
)
from gateway.keys.stores.sqlite_quotas import SqliteQuotaStore
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb
from tests.support.key_feed import TOKEN, Center, running_center

KEY = b"fourteen bytes"
PERIODS = ("2099-11-30", "2099-11")


def side_of(center: Center, token: str | None = TOKEN) -> GatewaySide:
    return GatewaySide(FeedSource(center.address, None, token))


async def test_reports_and_sums_go_to_the_center_and_come_back(tmp_path: Path) -> None:
    board, quotas = MemoryBoard(), SqliteQuotaStore(tmp_path / "keys.quotas")
    async with running_center(tmp_path / "center", board=board, quotas=quotas) as center:
        one, other = GatewayLimitBoard(side_of(center)), GatewayLimitBoard(side_of(center))
        assert await one.exchange("one", b"a") == {}
        assert await other.exchange("other", b"b") == {"one": b"a"}
        await one.leave("one")
        assert await other.exchange("other", b"c") == {}

        first, second = GatewayQuotaStore(side_of(center)), GatewayQuotaStore(side_of(center))
        await first.add({KEY: QuotaUse(5, 100)}, [KEY], PERIODS)
        totals = await second.add({KEY: QuotaUse(1, -20)}, [KEY], PERIODS)
        assert totals == {(KEY, period): QuotaUse(6, 80) for period in PERIODS}
        assert await first.add({}, [], PERIODS) == {}
        for each in (one, other, first, second):
            await each.close()
    await quotas.close()


async def test_only_who_has_a_token_takes_part(tmp_path: Path) -> None:
    quotas = SqliteQuotaStore(tmp_path / "keys.quotas")
    async with running_center(tmp_path / "center", board=MemoryBoard(), quotas=quotas) as center:
        for token in (None, "a-wrong-one"):
            side = side_of(center, token)
            with pytest.raises(StoreDeniedError, match="admin token"):
                await GatewayLimitBoard(side).exchange("one", b"")
            with pytest.raises(StoreDeniedError, match="admin token"):
                await GatewayQuotaStore(side).add({}, [], PERIODS)
            await side.close()


async def test_a_center_that_shares_nothing_or_is_away_is_an_error(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        side = side_of(center)
        with pytest.raises(StoreForeignError, match="the same version"):
            await GatewayLimitBoard(side).exchange("one", b"")
        await side.close()
        port = center.port
    side = GatewaySide(FeedSource(f"127.0.0.1:{port}", None, TOKEN))
    with pytest.raises(StoreError):
        await GatewayLimitBoard(side).exchange("one", b"")
    await side.close()


async def test_a_call_that_comes_to_nothing_ends_no_other_one() -> None:
    """A cancelled call would end the task that shares limits, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a center that is frozen
        side = GatewaySide(FeedSource(f"127.0.0.1:{silent.getsockname()[1]}", None, TOKEN))
        board, quotas = GatewayLimitBoard(side), GatewayQuotaStore(side)
        first = asyncio.create_task(board.exchange("one", b""))
        await asyncio.sleep(ANSWER_S / 4)
        second = asyncio.create_task(quotas.add({}, [], PERIODS))
        await asyncio.wait([first, second])
        for ended in (first, second):
            assert not ended.cancelled()
            assert isinstance(ended.exception(), StoreError)
        await side.close()


@pytest.mark.parametrize(
    "request_, what",
    [
        (pb.ShareLimitsRequest(), "1 to 200 printable"),
        (pb.ShareLimitsRequest(gateway="a\nb"), "1 to 200 printable"),
        (pb.ShareLimitsRequest(gateway="a" * 201), "1 to 200 printable"),
        (pb.CountQuotasRequest(), "a day"),
        (pb.CountQuotasRequest(periods=["2099-11", "2099-11-30"]), "a day"),
        (pb.CountQuotasRequest(periods=PERIODS, asked=[b"short"]), "14 bytes"),
        (
            pb.CountQuotasRequest(periods=PERIODS, used=[pb.QuotaUse(key_hash=b"short")]),
            "14 bytes",
        ),
        (
            pb.CountQuotasRequest(
                periods=PERIODS, used=[pb.QuotaUse(key_hash=KEY, requests=2 * 10**18)]
            ),
            "at most",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(
    tmp_path: Path, request_: pb.ShareLimitsRequest | pb.CountQuotasRequest, what: str
) -> None:
    quotas = SqliteQuotaStore(tmp_path / "keys.quotas")
    async with running_center(tmp_path / "center", board=MemoryBoard(), quotas=quotas) as center:
        source = FeedSource(center.address, None, TOKEN)
        name = "ShareLimits" if isinstance(request_, pb.ShareLimitsRequest) else "CountQuotas"
        async with new_channel(source) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[Any, bytes] = channel.unary_unary(
                f"/gateway.keys.v1.KeyFeed/{name}",
                request_serializer=type(request_).SerializeToString,
            )
            with pytest.raises(grpc.aio.AioRpcError, match=what) as refused:
                await call(request_, metadata=metadata_of(source))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await quotas.close()
