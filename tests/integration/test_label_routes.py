"""Backends by label: each team's data goes to its own store, and to no other one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway import metrics
from gateway.model import BackendName, Tenant
from gateway.settings import BackendSettings, LabelRoute
from tests.integration.test_tenants import WAYS, is_ok, send
from tests.support.plane import RunningWorker, backend, entry, open_connections, running_worker
from tests.support.sink import RawSink

A, B, AB, PLAIN = "key-of-team-a", "key-of-team-b", "key-of-team-ab", "key-of-nobody"
TEAM_A, TEAM_B = ("team", "a"), ("team", "b")


def all_kinds(sink: RawSink) -> tuple[BackendSettings, ...]:
    return (
        backend(BackendName.OTLP_GRPC, sink.grpc_url),
        backend(BackendName.OTLP_HTTP, sink.http_url),
        backend(BackendName.INTAKE, sink.http_url),
    )


@asynccontextmanager
async def running(
    backends: Iterable[BackendSettings], *routes: LabelRoute, **changes: Any
) -> AsyncIterator[RunningWorker]:
    """Run a gateway with keys of team a, of team b, of both, and of nobody."""
    keys = [
        entry(A, "1", tenant=Tenant(labels=(TEAM_A,))),
        entry(B, "2", tenant=Tenant(labels=(TEAM_B,))),
        entry(AB, "3", tenant=Tenant(labels=(("env", "x"), TEAM_B))),
        entry(PLAIN, "4"),
    ]
    async with running_worker(
        backends=tuple(backends), routes=routes, keys=keys, **changes
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("way", WAYS)
async def test_each_key_s_data_goes_to_the_store_of_its_labels(way: str) -> None:
    async with (
        RawSink() as of_a,
        RawSink() as of_b,
        RawSink() as of_prod,
        RawSink() as of_all,
        running(
            all_kinds(of_all),
            LabelRoute((TEAM_A,), all_kinds(of_a)),
            LabelRoute((("env", "x"), TEAM_B), all_kinds(of_prod)),
            LabelRoute((TEAM_B,), all_kinds(of_b)),
        ) as gateway,
    ):
        for _ in range(2):
            for key, sent in ((A, 1), (B, 2), (AB, 1), (PLAIN, 3)):
                for _ in range(sent):
                    assert is_ok(await send(gateway, way, key))

        counts = [len(sink.requests) for sink in (of_a, of_b, of_prod, of_all)]
        assert counts == [2, 4, 2, 6]


@pytest.mark.parametrize("way", WAYS)
async def test_no_data_of_a_team_goes_to_the_store_for_all(way: str) -> None:
    """Its route has a backend of another kind only: the sender keeps its data."""
    async with RawSink() as of_all, RawSink() as of_a:
        has_grpc = [each for each in all_kinds(of_a) if each.name == "otlp_grpc"]
        has_others = [each for each in all_kinds(of_a) if each.name != "otlp_grpc"]
        own = tuple(has_others if way == "grpc" else has_grpc)
        async with running(all_kinds(of_all), LabelRoute((TEAM_A,), own)) as gateway:
            answer = await send(gateway, way, A)
            text = answer.grpc_message if way == "grpc" else answer.body.decode()

            assert answer.grpc_status == 14 if way == "grpc" else answer.status == 503
            assert "the operator must add one to the entry in backends.routes" in text
            assert is_ok(await send(gateway, way, PLAIN))
            assert of_a.requests == []
            assert len(of_all.requests) == 1


async def test_a_team_has_a_store_where_the_others_have_none() -> None:
    async with RawSink() as of_a, running((), LabelRoute((TEAM_A,), all_kinds(of_a))) as gateway:
        for way in WAYS:
            assert is_ok(await send(gateway, way, A))
            assert not is_ok(await send(gateway, way, PLAIN))
        assert len(of_a.requests) == len(WAYS)


async def test_a_store_that_is_away_is_not_replaced_by_another_one() -> None:
    async with RawSink() as of_a:
        own = all_kinds(of_a)
    async with (
        RawSink() as of_all,
        running(all_kinds(of_all), LabelRoute((TEAM_A,), own)) as gateway,
    ):
        for way in WAYS:
            assert not is_ok(await send(gateway, way, A))
            assert is_ok(await send(gateway, way, PLAIN))
        assert len(of_all.requests) == len(WAYS)


async def test_a_key_that_changes_its_team_changes_its_store_on_open_connections() -> None:
    async with (
        RawSink() as of_a,
        RawSink() as of_all,
        running(all_kinds(of_all), LabelRoute((TEAM_A,), all_kinds(of_a))) as gateway,
    ):
        keyring = gateway.path.keyring
        for tenant, counts in (
            (Tenant(labels=(TEAM_A,)), (1, 0)),
            (None, (1, 1)),
            (Tenant((("X-Tenant", "a"),), (TEAM_A,)), (2, 1)),
            (Tenant((("X-Tenant", "a"),)), (2, 2)),
        ):
            keyring.apply([entry(A, "1", tenant=tenant)], [], keyring.revision + 1)
            assert is_ok(await send(gateway, "grpc", A))
            assert (len(of_a.requests), len(of_all.requests)) == counts
        assert [request.values("x-tenant") for request in of_a.requests] == [[], ["a"]]


async def test_backends_with_equal_settings_share_their_connections() -> None:
    async with (
        RawSink() as of_all,
        running(
            all_kinds(of_all),
            LabelRoute((TEAM_A,), all_kinds(of_all)),
            LabelRoute((TEAM_B,), all_kinds(of_all)),
        ) as gateway,
    ):
        assert len(gateway.path.all_pools) == 3
        for key in (A, B, PLAIN):
            assert is_ok(await send(gateway, "grpc", key))
        assert len(of_all.requests) == 3


async def test_connections_to_one_address_are_counted_together() -> None:
    """Two teams' stores at one address, below different paths."""
    async with RawSink() as sink:
        of_b = backend(BackendName.OTLP_HTTP, f"{sink.http_url}/b")
        of_all = backend(BackendName.OTLP_HTTP, sink.http_url)
        async with running([of_all], LabelRoute((TEAM_B,), (of_b,))) as gateway:
            assert is_ok(await send(gateway, "h1", B))
            assert is_ok(await send(gateway, "h1", PLAIN))
            assert [request.path for request in sink.requests] == ["/b/v1/traces", "/v1/traces"]
            series = metrics.BACKEND_CONNECTIONS.name, ("otlp_http", sink.http_url[7:])
            pools = gateway.path.all_pools
            assert len(pools) == 2
            open_now = sum(map(open_connections, pools))
            assert gateway.context.counters.gauges[series] == open_now == 2
