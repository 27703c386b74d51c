"""The keys of a worker: what it decides, through snapshots and changes, and how it keeps them."""

from __future__ import annotations

import gc

import pytest

from gateway.dataplane.auth.keyring import MAX_REMEMBERED, NOT_HERE, Keyring
from gateway.dataplane.core.credential import Credential
from gateway.model import (
    ALL_SIGNALS,
    Denied,
    KeyDigest,
    KeyEntry,
    KeyLimits,
    KeyState,
    Principal,
    Signal,
    Undecided,
    Verdict,
    digest_of,
)

NOW_MS = 1_000
TRACES = Signal.TRACES.bit
ORDINARY = Principal("7")
OTHERS = (
    Principal("static:agents", name="agents"),
    Principal("8", expires_at_ms=NOW_MS + 1),
    Principal("9", signals=TRACES),
    Principal("10", limits=KeyLimits(requests=5)),
    Principal("11", shared=True),
)


def digest(number: int) -> KeyDigest:
    return digest_of(b"%d" % number)


def entries(*principals: Principal) -> list[KeyEntry]:
    """Give the first principal the digest 0, and so on."""
    return [KeyEntry(digest(number), each) for number, each in enumerate(principals)]


def loaded(*principals: Principal, is_partial: bool = False) -> Keyring:
    keyring = Keyring(is_partial=is_partial)
    keyring.load(entries(*principals), 1, first=True, last=True)
    return keyring


def decided(keyring: Keyring, number: int = 0, signal: int = TRACES) -> Verdict:
    return keyring.decide(Credential(digest(number)), signal, NOW_MS)


@pytest.mark.parametrize("principal", [ORDINARY, *OTHERS], ids=lambda each: each.key_id)
def test_a_key_may_send_as_what_the_store_says_it_is(principal: Principal) -> None:
    keyring = loaded(principal)
    first, again = decided(keyring), decided(keyring)
    assert first == principal
    assert again is first
    assert type(first) is Principal


@pytest.mark.parametrize(
    "principal, refusal",
    [
        (Principal("1", KeyState.REVOKED), "KEY_REVOKED"),
        (Principal("1", KeyState.DISABLED), "KEY_DISABLED"),
        (Principal("1", expires_at_ms=NOW_MS), "KEY_EXPIRED"),
        (Principal("1", signals=ALL_SIGNALS & ~TRACES), "SIGNAL_NOT_ALLOWED"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_refusal_says_whose_key_it_was(principal: Principal, refusal: str) -> None:
    assert decided(loaded(principal)) == Denied(refusal, principal)


def test_what_cannot_be_known_is_not_denied() -> None:
    keyring = Keyring()
    assert decided(keyring) == Undecided()
    keyring.load([], 1, first=True, last=True)
    assert decided(keyring) == Denied("KEY_UNKNOWN")
    keyring.apply([], [], 2, complete=False)
    assert decided(keyring) == Undecided()
    assert decided(loaded(is_partial=True)) is NOT_HERE


def test_a_change_is_in_force_at_once_for_keys_in_use_too() -> None:
    keyring = loaded(ORDINARY, *OTHERS)
    number = len(OTHERS) + 1
    for each in range(number):
        assert isinstance(decided(keyring, each), Principal)
    revoked = [each._replace(state=KeyState.REVOKED) for each in (ORDINARY, *OTHERS)]
    keyring.apply(entries(*revoked), [], 2)
    for each in range(number):
        assert decided(keyring, each) == Denied("KEY_REVOKED", revoked[each])
    keyring.apply(entries(ORDINARY), [digest(1)], 3)
    assert decided(keyring) == ORDINARY
    assert decided(keyring, 1) == Denied("KEY_UNKNOWN")
    keyring.apply([], [digest(0)], 4)
    assert decided(keyring) == Denied("KEY_UNKNOWN")
    assert len(keyring) == number - 2


def test_a_snapshot_in_parts_replaces_all_keys_with_its_last_part() -> None:
    keyring = loaded(ORDINARY)
    assert decided(keyring) == ORDINARY
    keyring.load(entries()[:0], 5, first=True, last=False)
    keyring.load([KeyEntry(digest(1), ORDINARY)], 5, first=False, last=False)
    assert decided(keyring) == ORDINARY
    assert keyring.revision == 1
    keyring.load([KeyEntry(digest(2), OTHERS[0])], 5, first=False, last=True)
    assert [decided(keyring, each) for each in range(3)] == [
        Denied("KEY_UNKNOWN"),
        ORDINARY,
        OTHERS[0],
    ]
    assert keyring.revision == 5


def test_changes_older_than_the_keys_are_thrown_away() -> None:
    keyring = loaded(ORDINARY)
    keyring.apply([], [digest(0)], 1)
    assert decided(keyring) == ORDINARY


def test_a_change_in_parts_is_that_revision_with_its_last_part() -> None:
    keyring = loaded()
    keyring.apply(entries(ORDINARY), [], 2, last=False)
    assert (decided(keyring), keyring.revision) == (ORDINARY, 1)
    keyring.apply([KeyEntry(digest(1), ORDINARY)], [], 2)
    assert (decided(keyring, 1), keyring.revision) == (ORDINARY, 2)


def test_more_keys_in_use_than_are_remembered_are_decided_on_all_the_same() -> None:
    principals = [Principal(str(number)) for number in range(MAX_REMEMBERED + 10)]
    keyring = loaded(*principals)
    for _ in range(2):
        assert [decided(keyring, number) for number in range(len(principals))] == principals
        assert len(keyring._in_use) <= MAX_REMEMBERED


def test_no_garbage_collection_walks_the_keys() -> None:
    """It would hold up all requests, the longer the more keys there are."""
    keyring = loaded(ORDINARY, *OTHERS)
    keyring.apply(entries(Principal("7", KeyState.REVOKED)), [], 2)
    keyring.apply([KeyEntry(digest(99), Principal("99"))], [], 3)
    for kept in keyring._keys:
        assert not gc.is_tracked(kept)
        assert not any(map(gc.is_tracked, kept.values()))
