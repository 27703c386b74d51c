"""Limits of keys that hold for several gateways on one PostgreSQL."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.fleet import (
    Counts,
    metric,
    refusal,
    running_fleet,
    running_member,
    send,
    send_to_all,
    until_fleet,
    until_metric,
    until_reason,
)
from tests.support.postgresql import PostgresqlServer
from tests.support.process import free_ports
from tests.support.sink import RawSink

REQUESTS: Final = 60
SECONDS: Final = 6.0
FLEET: Final[dict[str, Any]] = {"scope": "fleet", "per_key": {"requests": REQUESTS}}
HOST: Final[dict[str, Any]] = {"per_key": {"requests": REQUESTS}}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Have a process say nothing for the length of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_within(counts: list[Counts], limit: float = REQUESTS) -> bool:
    """Whether all together got the limit, ±15 %: the first second's share is known by then."""
    accepted = sum(each.accepted for each in counts)
    least = min(each.seconds for each in counts)
    most = max(each.seconds for each in counts)
    return 0.85 * limit * math.floor(least) <= accepted <= 1.15 * limit * math.ceil(most)


@pytest.mark.parametrize(
    "rates", [[100.0, 100.0, 100.0], [150.0, 10.0, 0.5]], ids=["even", "uneven"]
)
async def test_all_gateways_together_get_a_keys_limit(
    tmp_path: Path, server: PostgresqlServer, rates: list[float]
) -> None:
    url = await server.new_database()
    async with RawSink() as sink, running_fleet(tmp_path, sink, 3, url, FLEET) as gateways:
        await until_fleet(gateways, 3)
        counts = await send_to_all(gateways, SECONDS, rates)
        assert is_within(counts), counts
        assert len(sink.requests) == sum(each.accepted for each in counts)


async def test_with_the_scope_host_each_gateway_gets_the_limit(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    url = await server.new_database()
    async with RawSink() as sink, running_fleet(tmp_path, sink, 2, url, HOST) as gateways:
        counts = await send_to_all(gateways, SECONDS, [100.0, 100.0])
        assert is_within(counts, 2 * REQUESTS), counts
        assert await metric(gateways[0], "gateway_limit_gateways") == 1


async def test_bytes_are_shared_too(tmp_path: Path, server: PostgresqlServer) -> None:
    url = await server.new_database()
    limits = {"scope": "fleet", "per_key": {"bytes": "120kB/s"}}
    async with RawSink() as sink, running_fleet(tmp_path, sink, 2, url, limits) as gateways:
        await until_fleet(gateways, 2)
        body = b"x" * 2_000  # 60 a second
        counts = await asyncio.gather(
            *(send(each, SECONDS, rate=100.0, body=body) for each in gateways)
        )
        assert is_within(counts), counts


async def test_while_postgresql_is_away_nobody_is_refused_everything_and_nothing_is_unlimited(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    url = await server.new_database()
    async with RawSink() as sink, running_fleet(tmp_path, sink, 2, url, FLEET) as gateways:
        await until_fleet(gateways, 2)
        await send_to_all(gateways, 2.0, [100.0, 10.0])
        server.kill()
        try:
            for gateway in gateways:
                await until_metric(gateway, "gateway_limit_shares_up", 0)
            # Until what was last shared has lapsed: nobody asserts when.
            await send_to_all(gateways, SECONDS, [100.0, 100.0])
            counts = await send_to_all(gateways, SECONDS, [100.0, 100.0])
            assert is_within(counts), counts
            for each in counts:
                assert is_within([each], REQUESTS / 2), counts
            await gateways[0].program.wait_line("keys' limits cannot be shared")
        finally:
            server.start()
        for gateway in gateways:
            await until_metric(gateway, "gateway_limit_shares_up", 1)
        await until_fleet(gateways, 2)
        counts = await send_to_all(gateways, SECONDS, [100.0, 100.0])
        assert is_within(counts), counts


async def test_a_gateway_that_leaves_leaves_its_part_to_the_others(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    url = await server.new_database()
    async with RawSink() as sink, running_fleet(tmp_path, sink, 3, url, FLEET) as gateways:
        await until_fleet(gateways, 3)
        await send_to_all(gateways, 2.0, [100.0, 100.0, 100.0])
        await gateways[1].program.stop()
        with frozen(gateways[2].program.process.pid):
            await until_fleet(gateways[:1], 1)
            counts = await send_to_all(gateways[:1], SECONDS, [100.0])
            assert is_within(counts), counts
        await until_fleet(gateways[:1], 2)


async def test_gateways_count_a_quota_together_and_a_new_one_knows_that_it_is_used_up(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    url, quota = await server.new_database(), 400
    limits = {"scope": "fleet", "per_key": {"requests_per_day": quota}}
    async with RawSink() as sink, running_fleet(tmp_path, sink, 2, url, limits) as gateways:
        await until_fleet(gateways, 2)
        counts = await send_to_all(gateways, 9.0, [50.0, 50.0])
        accepted = sum(each.accepted for each in counts)
        assert quota <= accepted < 1.75 * quota, counts
        assert all(each.statuses[429] for each in counts)
        async with running_member(tmp_path / "later", sink, url, limits) as later:
            counts_later = await send(later, 6.0, rate=20.0)
            assert counts_later.accepted < 100, counts_later
            status, retry_after, reason = await refusal(later)
            assert (status, reason) == (429, "QUOTA_SPENT")
            assert 0 < int(retry_after) <= 300
        await gateways[0].program.wait_line("has used up its quota")


async def test_edges_share_limits_and_quotas_through_their_center(tmp_path: Path) -> None:
    port, token = free_ports(1)[0], "token-of-the-edges"
    limits = {"scope": "fleet", "per_key": {"requests": REQUESTS, "requests_per_day": 900}}
    center_has = {"admin": {"grpc_address": f"127.0.0.1:{port}", "tokens": [token]}}
    edge_has = {"keys": {"feed": {"token": token}}}
    at_center, at_edge = f"sqlite://{tmp_path}/keys.db", f"gateway+grpc://127.0.0.1:{port}"
    async with (
        RawSink() as sink,
        running_member(tmp_path / "center", sink, at_center, limits, center_has) as center,
        running_member(tmp_path / "one", sink, at_edge, limits, edge_has) as one,
        running_member(tmp_path / "other", sink, at_edge, limits, edge_has) as other,
    ):
        gateways = [center, one, other]
        await until_fleet(gateways, 3)
        counts = await send_to_all(gateways, SECONDS, [0.5, 100.0, 100.0])
        assert is_within(counts), counts
        used = sum(each.accepted for each in counts)
        while used < 900:
            counts = await send_to_all(gateways, 3.0, [0.5, 100.0, 100.0])
            used += sum(each.accepted for each in counts)
        assert used < 1_200
        for gateway in gateways:
            # The center hears of the quota with its next request.
            await until_reason(gateway, "QUOTA_SPENT")
        with frozen(center.program.process.pid):
            for edge in gateways[1:]:
                await until_metric(edge, "gateway_limit_shares_up", 0)
                assert (await refusal(edge))[2] == "QUOTA_SPENT"
        for edge in gateways[1:]:
            await until_metric(edge, "gateway_limit_shares_up", 1)
