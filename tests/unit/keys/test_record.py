from __future__ import annotations

import sys

import msgspec
import pytest

from gateway.keys.api_key import InvalidKeyError
from gateway.keys.record import KeyRecord, KeyUsage, static_keys
from gateway.model import ALL_SIGNALS, KeyLimits, KeyState, Signal, digest_of

RECORD = KeyRecord(
    id=7, digest=digest_of(b"k"), name="agent-eu", created_ms=1, updated_ms=1, revision=1
)


def test_a_plain_key_may_send_everything_for_ever() -> None:
    principal = RECORD.principal(with_name=False)

    assert principal == ("7", KeyState.ACTIVE, 0, ALL_SIGNALS, "", False, None, None)


def test_a_restricted_key_carries_its_limits_to_the_workers() -> None:
    record = msgspec.structs.replace(
        RECORD,
        expires_at_ms=5_000,
        signals=frozenset({Signal.TRACES, Signal.LOGS}),
        limits=KeyLimits(requests=7),
    )

    principal = record.principal(with_name=True)

    assert principal.expires_at_ms == 5_000
    assert principal.signals == Signal.TRACES.bit | Signal.LOGS.bit
    assert principal.name == "agent-eu"
    assert principal.limits == KeyLimits(requests=7)
    assert not principal.shared


def test_limits_cost_a_key_without_them_nothing() -> None:
    """The allocator gives memory in steps of 16 bytes: there was room for one more field."""
    step = 16
    without = sys.getsizeof(RECORD) - 8
    assert -(-without // step) == -(-sys.getsizeof(RECORD) // step)


def test_records_of_a_snapshot_without_limits_are_read() -> None:
    members = msgspec.to_builtins(RECORD)
    assert msgspec.convert(members[:-1], KeyRecord) == RECORD


def test_a_deleted_key_is_revoked_whether_it_was_enabled_or_not() -> None:
    deleted = msgspec.structs.replace(RECORD, deleted_at_ms=9)

    assert deleted.state is KeyState.REVOKED
    assert msgspec.structs.replace(deleted, enabled=False).state is KeyState.REVOKED
    assert msgspec.structs.replace(RECORD, enabled=False).state is KeyState.DISABLED


def test_receiver_keys_get_names_by_their_place_in_the_list() -> None:
    keys = static_keys([(None, "first"), ("prod", "second"), (None, "third")])

    assert [key.key_id for key in keys] == ["static:receiver-1", "static:prod", "static:receiver-3"]
    assert [key.digest for key in keys] == [digest_of(k) for k in (b"first", b"second", b"third")]


def test_a_static_key_may_send_everything_for_ever() -> None:
    (key,) = static_keys([("prod", "second")])

    assert key.principal(with_name=True) == (
        "static:prod",
        KeyState.ACTIVE,
        0,
        ALL_SIGNALS,
        "prod",
        False,
        None,
        None,
    )


@pytest.mark.parametrize(
    "configured, text",
    [
        ([("a", "one"), ("a", "two")], "two receiver keys are called 'a'"),
        ([(None, "one"), ("receiver-1", "two")], "two receiver keys are called 'receiver-1'"),
        ([("a", "canary"), ("b", "canary")], "the receiver keys 'a' and 'b' are equal"),
    ],
)
def test_receiver_keys_that_clash_are_refused(
    configured: list[tuple[str | None, str]], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        static_keys(configured)

    assert "canary" not in str(caught.value)


def test_a_receiver_key_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(InvalidKeyError, match="a space"):
        static_keys([("a", "two words")])


def test_usage_adds_up_and_remembers_the_last_time() -> None:
    earlier = KeyUsage(requests=1, bytes=10, refusals=2, last_used_ms=50)
    later = KeyUsage(requests=3, bytes=5, refusals=0, last_used_ms=40)

    assert earlier.plus(later) == KeyUsage(4, 15, 2, 50)
