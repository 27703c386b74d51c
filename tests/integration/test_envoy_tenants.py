"""Tenants and limits of keys through a real Envoy, before a store with tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.clients import Response
from tests.support.envoy_fronts import (
    MESSAGE,
    WAYS,
    Fronts,
    digest_text,
    key_fields,
    running_fronts,
    send,
    told,
)
from tests.support.tenant_store import TenantStore

HEADER: Final = "X-Scope-OrgID"
SPELLINGS: Final = ("X-Scope-OrgID", "x-scope-orgid", "X_Scope_OrgID", "x-scope_orgid")
TENANTS: Final = {"key-of-a": "team-a", "key-of-b": "team-b"}


def _spellings(way: str) -> list[str]:
    """Over HTTP/2 names are in lower case (RFC 9113 §8.2.1)."""
    return [name for name in SPELLINGS if way.endswith("h1") or name == name.lower()]


def _entry(key: str, number: int, **members: Any) -> dict[str, Any]:
    return {"digest": digest_text(key), "name": key, "id": number, **members}


SENT: Final = sum(len(_spellings(way)) for way in WAYS)
ENTRIES: Final = [
    _entry("key-of-a", 1, headers={HEADER: "team-a"}),
    _entry("key-of-b", 2, headers={HEADER: "team-b"}),
    _entry("key-of-nobody", 3),
]


async def test_each_request_arrives_under_its_keys_tenant_whatever_its_sender_states(
    tmp_path: Path,
) -> None:
    store = TenantStore(TENANTS.values())
    async with running_fronts(tmp_path, ENTRIES, store) as fronts:
        for key, tenant in TENANTS.items():
            for way in WAYS:
                for name in _spellings(way):
                    forged = ((name, "team-b"), (name, "team-a"))
                    response = await send(fronts.envoy.port, way, (*key_fields(key), *forged))
                    assert _is_accepted(response), (key, way, name)
            assert len(store.stored[tenant]) == SENT
            assert {each.body for each in store.stored[tenant]} == {MESSAGE}
        assert not store.refused


async def test_a_key_without_a_tenant_gets_none_by_stating_one(tmp_path: Path) -> None:
    store = TenantStore(TENANTS.values())
    async with running_fronts(tmp_path, ENTRIES, store) as fronts:
        for way in WAYS:
            for name in _spellings(way):
                fields = (*key_fields("key-of-nobody"), (name, "team-b"))
                assert not _is_accepted(await send(fronts.envoy.port, way, fields))
        assert store.refused == [[]] * SENT
        assert not store.stored


async def test_a_header_that_a_key_gets_later_is_dropped_for_all_from_then_on(
    tmp_path: Path,
) -> None:
    async with running_fronts(tmp_path, ENTRIES) as fronts:
        forged = (*key_fields("key-of-nobody"), ("X_Other", "mine"))

        async def arrives() -> bool:
            assert _is_accepted(await send(fronts.envoy.port, "json-h1", forged))
            return any(
                name.lower().replace("_", "-") == "x-other"
                for name, _ in fronts.sink.requests[-1].fields
            )

        assert await arrives()
        later = _entry("key-of-c", 4, headers={"X-Other": "c"})
        (tmp_path / "keys.yaml").write_text(yaml.safe_dump([*ENTRIES, later]))
        while await arrives():
            assert not fronts.gateway.program.is_over
        response = await send(fronts.envoy.port, "grpc", key_fields("key-of-c"))
        assert _is_accepted(response)
        assert fronts.sink.requests[-1].field("x-other") == "c"


LIMITED: Final = [
    # A byte a second: a request is paid back for an hour.
    _entry("through-envoy", 1, limits={"bytes": 1}),
    _entry("direct", 2, limits={"bytes": 1}),
    _entry("often", 3, limits={"requests": 1}),
    _entry("free", 4),
]


async def test_limits_count_whichever_way_requests_take_and_are_told_alike(
    tmp_path: Path,
) -> None:
    async with running_fronts(tmp_path, LIMITED) as fronts:
        for key, port in (
            ("through-envoy", fronts.envoy.port),
            ("direct", fronts.gateway.port),
        ):
            big = MESSAGE * 500
            assert _is_accepted(await send(port, "protobuf-h1", key_fields(key), body=big))
            for way in WAYS:
                own = told(await send(fronts.gateway.port, way, key_fields(key)))
                through = told(await send(fronts.envoy.port, way, key_fields(key)))
                assert through == own, (key, way)
                assert "QUOTA" in str(own["details"]), own
        assert _is_accepted(await send(fronts.envoy.port, "grpc", key_fields("free")))
        await _check_requests(fronts)


async def _check_requests(fronts: Fronts) -> None:
    """Send until a key has used up its requests of a second."""
    answers: list[Response] = []
    while not answers or _is_accepted(answers[-1]):
        answers.append(await send(fronts.envoy.port, "json-h1", key_fields("often")))
    assert len(answers) > 1
    assert "QUOTA" in str(told(answers[-1])["details"])


def _is_accepted(response: Response) -> bool:
    return response.status == 200 and response.grpc_status in {None, 0}
