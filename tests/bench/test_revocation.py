"""The measuring of revocations, against real gateways and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from bench import revocation
from bench.lossy_relay import LossyRelay
from bench.one_machine import Lags
from bench.two_gateways import SharedLags
from tests.support.polling import until
from tests.support.postgresql import PostgresqlServer

RUN = ("--times=3", "--workers=2", "--shared-times=2", "--lost-times=3")


def test_a_deleted_key_is_refused_by_each_worker_of_one_and_of_two_gateways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = tmp_path / "times.json"
    monkeypatch.setattr(revocation, "MAX_LOST_MS", 0.0)

    assert revocation.main([*RUN, f"--json={times}"]) == 1

    lags = json.loads(times.read_text())
    assert len(lags["since_commit_ms"]) == 3
    assert len(lags["since_acknowledged_ms"]) + lags["unacknowledged"] == 3
    assert len(lags["notified_ms"]) == 2
    assert len(lags["lost_ms"]) == 3
    printed = capsys.readouterr()
    assert "GATE MISSED: two gateways without notifications, max" in printed.err
    assert printed.out.count("p50 ") == printed.out.count("p99 ") == printed.out.count("max ") >= 3


def shared(notified_ms: float, lost_ms: float) -> SharedLags:
    return SharedLags([1.0, notified_ms], [1.0, lost_ms])


@pytest.mark.parametrize(
    "lags, two, missed",
    [
        (Lags([1.0] * 99 + [999.0], [], 0), shared(1_000.0, 5_000.0), []),
        (Lags([100.1, 100.2], [], 0), shared(1.0, 1.0), ["one machine, p99"]),
        (Lags([1.0], [], 0), shared(1_000.1, 1.0), ["two gateways, max"]),
        (Lags([1.0], [], 0), shared(1.0, 5_000.1), ["two gateways without notifications, max"]),
    ],
)
def test_each_bound_is_a_gate(lags: Lags, two: SharedLags, missed: list[str]) -> None:
    found = revocation.missed_gates(lags, two)

    assert len(found) == len(missed)
    for text, what in zip(found, missed, strict=True):
        assert text.startswith(f"GATE MISSED: {what}")


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_the_relay_loses_notifications_and_nothing_else(server: PostgresqlServer) -> None:
    heard: list[object] = []
    async with LossyRelay(server.port) as relay, connected(relay.port) as connection:
        await connection.add_listener("news", lambda *news: heard.append(news[-1]))

        await connection.execute("SELECT pg_notify('news', 'one')")
        await until(lambda: heard == ["one"])
        relay.is_losing = True
        await connection.execute("SELECT pg_notify('news', 'two')")
        await until(lambda: relay.lost == 1)
        big = await connection.fetchval("SELECT repeat('x', 1000000)")
        relay.is_losing = False
        await connection.execute("SELECT pg_notify('news', 'three')")
        await until(lambda: len(heard) == 2)

        assert heard == ["one", "three"]
        assert len(big) == 1_000_000


async def test_the_relay_ends_with_either_side(server: PostgresqlServer) -> None:
    async with LossyRelay(server.port) as relay, connected(relay.port) as connection:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())

        server.kill()

        await asyncio.wait_for(ended.wait(), 20)
