"""Keys outside of a caller's scope do not exist for it, and no change takes a key out of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.keys.api_key import ApiKey
from gateway.keys.audit import GATEWAY, Actor
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import DuplicateKeyError, InvalidInputError, KeyNotFoundError
from gateway.keys.scope import Scope
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.tenancy import Tenancy, TenancyUpdate, tenancy
from tests.unit.keys.conftest import Clock

TEAM_A = Scope(frozenset({("team", "a")}), (("X-Scope-OrgID", "team-a"),))
HEADERS = {"X-Scope-OrgID": "team-a"}


@pytest.fixture(name="team")
def _team(store: SqlStore, clock: Clock) -> KeyCommands:
    return KeyCommands(store.repository, clock, Actor("team-a", "10.0.0.1", TEAM_A))


@pytest.fixture(name="everybody")
def _everybody(store: SqlStore, clock: Clock) -> KeyCommands:
    return KeyCommands(store.repository, clock, GATEWAY)


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, tenancy(None, {"team": "a"}, HEADERS)),
        (tenancy("A", {"env": "x"}, None), tenancy("A", {"env": "x", "team": "a"}, HEADERS)),
        (tenancy(None, {"team": "a"}, None), tenancy(None, {"team": "a"}, HEADERS)),
        (
            tenancy(None, None, {"x-scope-orgid": "team-a"}),
            tenancy(None, {"team": "a"}, HEADERS),
        ),
    ],
)
async def test_a_new_key_gets_the_labels_and_the_headers_of_the_scope(
    team: KeyCommands, given: Tenancy | None, expected: Tenancy
) -> None:
    created = await team.create(KeySpec("n", tenancy=given))
    assert created.record.tenancy == expected
    adopted = await team.adopt(ApiKey.adopt("a-key-from-elsewhere"), KeySpec("n", tenancy=given))
    assert adopted.record.tenancy == expected
    rotated = await team.rotate(created.record.id, 0)
    assert rotated.issued.record.tenancy == expected


@pytest.mark.parametrize(
    "given, text",
    [
        (tenancy(None, {"team": "b"}, None), "the label team is a for all keys of this token"),
        (tenancy(None, None, {"X-Scope-OrgID": "team-b"}), "cannot set the header X-Scope-OrgID"),
        (tenancy(None, None, {"x_scope_orgid": "team-b"}), "cannot set the header x_scope_orgid"),
        (tenancy(None, None, {"X-Other": "team-a"}), "cannot set the header X-Other"),
    ],
)
async def test_a_new_key_of_another_scope_is_refused(
    team: KeyCommands, given: Tenancy, text: str
) -> None:
    with pytest.raises(InvalidInputError, match=text):
        await team.create(KeySpec("n", tenancy=given))


@pytest.mark.parametrize(
    "update",
    [
        TenancyUpdate(labels={"team": "b"}),
        TenancyUpdate(labels={"team": None}),
        TenancyUpdate(headers={"X-Scope-OrgID": "team-b"}),
        TenancyUpdate(headers={"X-Scope-OrgID": None}),
        TenancyUpdate(headers={"X-Other": "b"}),
        TenancyUpdate(replaced=frozenset({"headers"})),
    ],
)
async def test_no_change_takes_a_key_out_of_the_scope(
    team: KeyCommands, store: SqlStore, update: TenancyUpdate
) -> None:
    key_id = (await team.create(KeySpec("n"))).record.id
    before = await store.repository.find(key_id)
    with pytest.raises(InvalidInputError):
        await team.update(key_id, KeyUpdate(tenancy=update))
    assert await store.repository.find(key_id) == before


async def test_other_labels_and_the_owner_are_the_teams_to_choose(team: KeyCommands) -> None:
    key_id = (await team.create(KeySpec("n", tenancy=tenancy(None, {"env": "x"}, None)))).record.id

    async def changed(update: TenancyUpdate) -> Tenancy | None:
        return (await team.update(key_id, KeyUpdate(tenancy=update))).tenancy

    owned = await changed(TenancyUpdate(owner="A", labels={"env": "y", "team": "a"}))
    assert owned == tenancy("A", {"env": "y", "team": "a"}, HEADERS)
    without = await changed(TenancyUpdate(labels=None, replaced=frozenset({"labels"})))
    assert without == tenancy("A", {"team": "a"}, HEADERS)


CHANGES: list[Callable[[KeyCommands, int], Awaitable[Any]]] = [
    lambda commands, key_id: commands.update(key_id, KeyUpdate(name="mine")),
    lambda commands, key_id: commands.update(
        key_id, KeyUpdate(tenancy=TenancyUpdate(labels={"team": "a"}))
    ),
    lambda commands, key_id: commands.delete(key_id),
    lambda commands, key_id: commands.rotate(key_id, 0),
    lambda commands, key_id: commands.rotate(key_id, 0, 1_990_000_000_000),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "theirs",
    [None, tenancy("a", None, None), tenancy(None, {"team": "b"}, None)],
)
async def test_keys_of_others_are_not_found_and_stay_as_they_are(
    team: KeyCommands,
    everybody: KeyCommands,
    store: SqlStore,
    theirs: Tenancy | None,
    change: Callable[[KeyCommands, int], Awaitable[Any]],
) -> None:
    record = (await everybody.create(KeySpec("theirs", tenancy=theirs))).record
    with pytest.raises(KeyNotFoundError) as refused:
        await change(team, record.id)
    with pytest.raises(KeyNotFoundError) as unknown:
        await change(team, 1)
    assert str(refused.value) == str(unknown.value).replace("id 1:", f"id {record.id}:")
    assert await store.repository.find(record.id) == record
    await everybody.delete(record.id)
    with pytest.raises(KeyNotFoundError) as deleted:
        await change(team, record.id)
    assert str(deleted.value) == str(refused.value)


async def test_of_a_key_that_others_have_nothing_is_told(
    team: KeyCommands, everybody: KeyCommands
) -> None:
    theirs = await everybody.adopt(ApiKey.adopt("a-key-from-elsewhere"), KeySpec("theirs"))
    with pytest.raises(DuplicateKeyError) as refused:
        await team.adopt(ApiKey.adopt("a-key-from-elsewhere"), KeySpec("mine"))
    assert str(theirs.record.id) not in str(refused.value)
