from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.api_key import ApiKey, has_valid_checksum
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import (
    DuplicateKeyError,
    InvalidExpiryError,
    InvalidInputError,
    KeyNotFoundError,
)
from gateway.keys.store import KeySpec
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.times import describe_day, parse_expiration
from tests.unit.keys.conftest import Clock

DAY_S = 86_400.0
DAY_MS = 86_400_000


@pytest.fixture
def manager(store: SqlStore, clock: Clock) -> KeyCommands:
    return KeyCommands(store.repository, clock)


async def test_a_created_key_is_given_once_and_its_digest_is_kept(
    manager: KeyCommands, store: SqlStore, clock: Clock
) -> None:
    issued = await manager.create(KeySpec("agent-eu", "EU agents"))

    assert has_valid_checksum(issued.key.reveal().encode())
    assert issued.record.digest == issued.key.digest
    assert issued.record.created_ms == clock.now_ms
    assert await store.repository.find(issued.record.id) == issued.record


async def test_an_adopted_key_keeps_its_form(manager: KeyCommands) -> None:
    issued = await manager.adopt(ApiKey.adopt("old receiver key".replace(" ", "-")), KeySpec("old"))

    assert issued.key.reveal() == "old-receiver-key"
    with pytest.raises(DuplicateKeyError, match=str(issued.record.id)):
        await manager.adopt(ApiKey.adopt("old-receiver-key"), KeySpec("again"))


async def test_an_empty_description_is_none(manager: KeyCommands) -> None:
    assert (await manager.create(KeySpec("n", ""))).record.description is None


@pytest.mark.parametrize(
    "name, text",
    [
        ("", "the name is empty"),
        ("   ", "the name is empty"),
        ("n" * 256, "256 characters long: at most 255"),
        ("two\nlines", "line breaks or control characters"),
        ("\x1b[31mred", "line breaks or control characters"),
        ("\udcff", "line breaks or control characters"),
        pytest.param(ApiKey.generate().reveal(), "the name is a key", id="a key"),
    ],
)
async def test_names_that_cannot_be_shown_everywhere_are_refused(
    manager: KeyCommands, name: str, text: str, store: SqlStore
) -> None:
    with pytest.raises(InvalidInputError, match=text) as caught:
        await manager.create(KeySpec(name))

    assert not name or name not in str(caught.value)
    assert await store.feed.live() == []


@pytest.mark.parametrize(
    "description, text",
    [
        ("d" * 1001, "at most 1000"),
        ("a\x00b", "control"),
        pytest.param(ApiKey.generate().reveal(), "key", id="a key"),
    ],
)
async def test_descriptions_have_rules_too(
    manager: KeyCommands, description: str, text: str
) -> None:
    with pytest.raises(InvalidInputError, match=text):
        await manager.create(KeySpec("name", description))


@pytest.mark.parametrize("name", ["agent-eu", "Prüfstand 3", "監視", "🚀", "n" * 255])
async def test_names_may_be_anything_printable(manager: KeyCommands, name: str) -> None:
    assert (await manager.create(KeySpec(name))).record.name == name


async def test_an_adopted_key_may_not_be_its_own_name(manager: KeyCommands) -> None:
    key = ApiKey.adopt("my-receiver-key")

    with pytest.raises(InvalidInputError, match="the key itself") as caught:
        await manager.adopt(key, KeySpec("my-receiver-key"))
    with pytest.raises(InvalidInputError, match="the key itself"):
        await manager.adopt(key, KeySpec("name", "my-receiver-key"))

    assert "my-receiver-key" not in str(caught.value)


async def test_a_key_must_expire_in_the_future(manager: KeyCommands, clock: Clock) -> None:
    for expires_at_ms in (clock.now_ms - 1, clock.now_ms):
        with pytest.raises(InvalidExpiryError, match="not in the future"):
            await manager.create(KeySpec("n", None, expires_at_ms))

    issued = await manager.create(KeySpec("n", None, clock.now_ms + 1))

    assert issued.record.expires_at_ms == clock.now_ms + 1


async def test_the_day_itself_is_excluded_and_the_refusal_names_the_first_possible_one(
    manager: KeyCommands, clock: Clock
) -> None:
    clock.now_ms = parse_expiration("2030-03-16") + 1
    tomorrow = parse_expiration("2030-03-17")

    with pytest.raises(InvalidExpiryError, match="the first possible day is 2030-03-17"):
        await manager.create(KeySpec("n", None, parse_expiration("2030-03-16")))

    assert (await manager.create(KeySpec("n", None, tomorrow))).record.expires_at_ms == tomorrow


def test_an_expiration_is_midnight_utc_as_the_sts_cli_has_it() -> None:
    assert parse_expiration("2020-05-22") == 1590105600000  # wire contract §4.2


@given(st.dates())
def test_a_day_is_described_as_it_was_typed(day: date) -> None:
    text = day.isoformat()

    assert describe_day(parse_expiration(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "20300101",
        "2030-W01-1",
        "2030-1-1",
        "2030-02-30",
        "2030-01-01T00:00",
        "\uff12030-01-01",
    ],
)
def test_other_forms_of_dates_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="yyyy-MM-dd"):
        parse_expiration(text)


async def test_deleting_an_unknown_key_is_refused(manager: KeyCommands) -> None:
    with pytest.raises(KeyNotFoundError, match="no key with id 5"):
        await manager.delete(5)


async def test_a_rotated_key_works_until_the_overlap_ends(
    manager: KeyCommands, clock: Clock
) -> None:
    old = await manager.create(KeySpec("agent-eu", "EU"))

    rotated = await manager.rotate(old.record.id, 3_600_000)

    assert rotated.predecessor.id == old.record.id
    assert rotated.predecessor.expires_at_ms == clock.now_ms + 3_600_000
    assert rotated.issued.record.name == "agent-eu"
    assert rotated.issued.record.expires_at_ms is None
    assert rotated.issued.key.digest == rotated.issued.record.digest != old.record.digest


async def test_a_successor_lives_for_as_many_days_as_its_predecessor_was_to(
    manager: KeyCommands, clock: Clock
) -> None:
    clock.now_ms = parse_expiration("2030-01-01") + 12 * 3_600_000
    old = await manager.create(KeySpec("n", None, parse_expiration("2030-01-31")))
    clock.advance(20 * DAY_S)

    rotated = await manager.rotate(old.record.id, 0)

    assert rotated.issued.record.expires_at_ms == parse_expiration("2030-02-20")
    assert rotated.predecessor.expires_at_ms == clock.now_ms


async def test_a_successors_expiration_can_be_chosen(manager: KeyCommands, clock: Clock) -> None:
    old = await manager.create(KeySpec("n"))

    rotated = await manager.rotate(old.record.id, 0, clock.now_ms + DAY_MS)

    assert rotated.issued.record.expires_at_ms == clock.now_ms + DAY_MS


async def test_rotations_that_make_no_sense_are_refused_and_change_nothing(
    manager: KeyCommands, clock: Clock, store: SqlStore
) -> None:
    old = await manager.create(KeySpec("n"))

    with pytest.raises(InvalidInputError, match="negative"):
        await manager.rotate(old.record.id, -1)
    with pytest.raises(InvalidExpiryError):
        await manager.rotate(old.record.id, 0, clock.now_ms)
    with pytest.raises(KeyNotFoundError):
        await manager.rotate(5, 0)

    assert await store.feed.live() == [old.record]


def test_describing_a_day_uses_utc_whatever_the_hour() -> None:
    late = datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)

    assert describe_day(round(late.timestamp() * 1000)) == "2030-12-31"
