"""Whose data a key sends: what can be set, what cannot, and what becomes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.dataplane.http2 import request_head
from gateway.keys import tenancy_rules
from gateway.keys.api_key import ApiKey
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import InvalidInputError
from gateway.keys.record import KeyRecord, TenantRecord
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.tenancy import (
    Tenancy,
    TenancyUpdate,
    tenancy,
    tenancy_as_json,
    tenancy_from_json,
)
from gateway.model import Tenant, digest_of

GIVEN = tenancy("team-a", {"team": "a", "env": "prod"}, {"X-Scope-OrgID": "team-a"})
ISSUED = "iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"
"""Has the form of one; always the same, because it names tests."""
RECORD = KeyRecord(1, digest_of(b"k"), "n", 1, 1, 1)


def test_a_key_without_tenancy_is_as_small_as_ever() -> None:
    assert "tenancy" not in KeyRecord.__struct_fields__
    assert type(RECORD.replaced(tenancy=GIVEN)) is TenantRecord
    assert RECORD.replaced(tenancy=GIVEN).replaced(tenancy=None) == RECORD
    assert RECORD.replaced(tenancy=None, name="m").name == "m"


def test_keys_of_one_tenant_share_what_they_carry() -> None:
    again = tenancy("team-a", {"env": "prod", "team": "a"}, {"X-Scope-OrgID": "team-a"})
    assert again is GIVEN
    assert tenancy(None, {}, {}) is None


def test_a_worker_is_told_headers_and_the_labels_that_its_routes_name() -> None:
    record = RECORD.replaced(tenancy=GIVEN)
    headers = (("X-Scope-OrgID", "team-a"),)

    def told(given: KeyRecord, *labels: tuple[str, str]) -> Tenant | None:
        return given.principal(with_name=False, route_labels=frozenset(labels)).tenant

    assert told(record) == Tenant(headers, ())
    assert told(record, ("team", "a"), ("env", "x")) == Tenant(headers, (("team", "a"),))
    assert told(RECORD, ("team", "a")) is None
    only_owner = RECORD.replaced(tenancy=tenancy("o", {"team": "b"}, {}))
    assert told(only_owner, ("team", "a")) is None, "an ordinary key: its id is all that is kept"
    assert told(msgspec.structs.replace(record, deleted_at_ms=1), ("team", "a")) is None


def test_json_has_what_is_set_and_gives_it_back() -> None:
    assert GIVEN is not None
    members = tenancy_as_json(GIVEN)
    assert members == {
        "owner": "team-a",
        "labels": {"env": "prod", "team": "a"},
        "headers": {"X-Scope-OrgID": "team-a"},
    }
    assert tenancy_from_json(members | {"moon": 1}) == GIVEN
    assert tenancy_as_json(None) == {}
    assert tenancy_from_json({}) is None
    wrongs: list[dict[str, Any]] = [
        {"owner": 1},
        {"labels": []},
        {"labels": {"a": 1}},
        {"headers": {"a": None}},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="no text"):
            tenancy_from_json(wrong)


@pytest.mark.parametrize(
    "update, expected",
    [
        (TenancyUpdate(owner="b"), GIVEN and GIVEN._replace(owner="b")),
        (TenancyUpdate(owner=""), GIVEN and GIVEN._replace(owner=None)),
        (
            TenancyUpdate(labels={"team": "b", "env": None, "x": "y"}),
            GIVEN and GIVEN._replace(labels=(("team", "b"), ("x", "y"))),
        ),
        (
            TenancyUpdate(labels={"x": "y"}, replaced=frozenset({"labels"})),
            GIVEN and GIVEN._replace(labels=(("x", "y"),)),
        ),
        (
            TenancyUpdate(headers={"x_scope-ORGID": "b"}),
            GIVEN and GIVEN._replace(headers=(("x_scope-ORGID", "b"),)),
        ),
        (TenancyUpdate(headers={"x-scope-orgid": None}), GIVEN and GIVEN._replace(headers=())),
        (TenancyUpdate(owner="", replaced=frozenset({"labels", "headers"})), None),
    ],
)
def test_a_change_touches_what_it_names(update: TenancyUpdate, expected: Tenancy | None) -> None:
    assert update.applied(GIVEN) == expected


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "cannot be empty"),
        ("te am", "cannot be 'te am'"),
        ("-team", "letter or digit at both ends"),
        ("t" * 64, "up to 63 letters"),
        ("te\x1bam", r"'te\\x1bam'"),
        ("té", r"'t\\xe9'"),
        (ISSUED, "the name of a label is a key"),
    ],
)
def test_each_label_name_that_cannot_be_is_told(name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        tenancy_rules.check_labels({name: "v"})
    assert ISSUED not in str(caught.value)


@pytest.mark.parametrize(
    "value, message",
    [
        ("", "is empty"),
        (" a", "begins or ends with a space"),
        ("a\nb", "contains line breaks or control characters"),
        ("v" * 256, "is 256 characters long: at most 255"),
        (ISSUED, "is a key"),
    ],
)
def test_each_label_value_and_owner_that_cannot_be_is_told(value: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the value of the label team {message}") as one:
        tenancy_rules.check_labels({"team": value})
    assert ISSUED not in str(one.value)
    if value:
        with pytest.raises(InvalidInputError, match=f"the owner {message}") as other:
            tenancy_rules.check_owner(value)
        assert ISSUED not in str(other.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "cannot be empty"),
        ("X Scope", "cannot be 'X Scope'"),
        (":path", "cannot be ':path'"),
        ("x\r\ny", r"cannot be 'x\\r\\ny'"),
        ("x" * 129, "up to 128"),
        (ISSUED, "is a key"),
        ("Authorization", "carries the API key"),
        ("STS_API_KEY", "carries the API key"),
        ("dd-api-key", "carries the API key"),
        ("proxy-authorization", "carries the API key"),
        ("Host", "belongs to the connection"),
        ("te", "belongs to the connection"),
        ("Connection", "belongs to the connection"),
        ("Keep_Alive", "belongs to the connection"),
        ("transfer-encoding", "belongs to the connection"),
        ("Upgrade", "belongs to the connection"),
        ("trailer", "belongs to the connection"),
        ("expect", "belongs to the connection"),
        ("X-Forwarded-For", "the gateway itself"),
        ("Forwarded", "the gateway itself"),
        ("x-gateway-key-id", "the gateway itself"),
        ("Content-Type", "it is the sender's"),
        ("content_length", "it is the sender's"),
        ("grpc-timeout", "it is the sender's"),
        ("Accept-Encoding", "it is the sender's"),
        ("User-Agent", "it is the sender's"),
        ("Cookie", "it is the sender's"),
        ("X-Tenant-Bin", "binary value"),
    ],
)
def test_each_header_that_is_not_a_key_s_to_set_is_told(name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        tenancy_rules.check_headers({name: "v"})
    assert ISSUED not in str(caught.value)


@pytest.mark.parametrize(
    "value, message",
    [
        ("", "has no value"),
        ("v" * 1025, "1025 characters long: at most 1024"),
        ("a\r\nX-Other: b", "cannot be sent"),
        (" a", "cannot be sent"),
        ("a\x00", "cannot be sent"),
        ("té", "cannot be sent"),
        (ISSUED, "is a key"),
    ],
)
def test_each_header_value_that_cannot_be_sent_is_told(value: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        tenancy_rules.check_headers({"X-Tenant": value})
    assert ISSUED not in str(caught.value)


@pytest.mark.parametrize("name", sorted(request_head._KEPT_NAMES))
def test_no_key_sets_a_header_that_http2_remembers_how_to_read(name: bytes) -> None:
    """It would go on to forward a sender's own: only HTTP/1.1 forgets when a key sets one."""
    with pytest.raises(InvalidInputError):
        tenancy_rules.check_header_name(name.decode())


def test_two_spellings_of_a_header_are_one_too_many() -> None:
    with pytest.raises(InvalidInputError, match="X-Tenant and x_tenant are one"):
        tenancy_rules.check_headers({"X-Tenant": "a", "x_tenant": "b"})


async def test_a_key_has_a_bounded_number_of_labels_and_headers(store: SqlStore) -> None:
    commands = KeyCommands(store.repository)
    for what in ("labels", "headers"):
        many = {f"n{number}": "v" for number in range(17)}
        pairs: dict[str, dict[str, str]] = {"labels": {}, "headers": {}} | {what: many}
        with pytest.raises(InvalidInputError, match=f"17 {what}: at most 16"):
            await commands.create(KeySpec("n", tenancy=tenancy(None, **pairs)))
        made = (await commands.create(KeySpec("n"))).record
        names = list(many)
        for some in (names[:10], names[10:16]):
            values: dict[str, Any] = {what: dict.fromkeys(some, "v")}
            change = TenancyUpdate(**values)
            made = await commands.update(made.id, KeyUpdate(tenancy=change))
        one_more: dict[str, Any] = {what: {names[16]: "v"}}
        with pytest.raises(InvalidInputError, match=f"17 {what}: at most 16"):
            await commands.update(made.id, KeyUpdate(tenancy=TenancyUpdate(**one_more)))
        assert await store.repository.find(made.id) == made, "a change that cannot be, is none"


async def test_no_text_of_a_key_is_the_key_itself(store: SqlStore) -> None:
    commands = KeyCommands(store.repository)
    key = ApiKey.adopt("canary-key")
    for given in (
        tenancy("canary-key", {}, {}),
        tenancy(None, {"canary-key": "v"}, {}),
        tenancy(None, {"team": "canary-key"}, {}),
        tenancy(None, {}, {"X-Tenant": "canary-key"}),
    ):
        with pytest.raises(InvalidInputError, match="the key itself") as caught:
            await commands.adopt(key, KeySpec("n", tenancy=given))
        assert "canary" not in str(caught.value)
    made = (await commands.adopt(key, KeySpec("n"))).record
    change = TenancyUpdate(headers={"X-Tenant": "canary-key"})
    with pytest.raises(InvalidInputError, match="the key itself"):
        await commands.update(made.id, KeyUpdate(tenancy=change))


def test_a_tenant_s_record_is_read_from_what_an_older_gateway_would_read() -> None:
    encoded = msgspec.msgpack.encode(RECORD.replaced(tenancy=GIVEN))
    assert msgspec.msgpack.decode(encoded, type=TenantRecord).tenancy == GIVEN
    assert msgspec.msgpack.decode(encoded, type=KeyRecord) == RECORD
