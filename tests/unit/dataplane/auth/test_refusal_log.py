from __future__ import annotations

import pytest

from gateway.dataplane.auth.refusal_log import MAX_GROUPS, OTHER, RefusalLog
from gateway.dataplane.core.credential import Credential
from gateway.model import Principal, digest_of


def note(
    log: RefusalLog,
    reason: str,
    *,
    peer: str = "192.0.2.7:40000",
    key: bytes | None = None,
    principal: Principal | None = None,
) -> None:
    digest = digest_of(key) if key is not None else None
    credential = Credential(digest, "", "StackState")
    log.note(credential, reason, principal, peer=peer, protocol="grpc", signal="traces")


def test_nothing_refused_makes_an_empty_report() -> None:
    assert RefusalLog().take() == []


def test_refusals_of_one_key_and_reason_are_one_group_with_the_first_peer() -> None:
    log = RefusalLog()
    for port in range(5):
        note(log, "key_unknown", key=b"one", peer=f"192.0.2.7:{port + 1}")
    (refused,) = log.take()
    assert refused.count == 5
    assert refused.who == refused.digest_prefix == digest_of(b"one").hex()[:8]
    assert refused.reason == "key_unknown"
    assert refused.peer == "192.0.2.7:1"
    assert (refused.protocol, refused.signal, refused.scheme) == ("grpc", "traces", "StackState")
    assert refused.key_id == ""


def test_a_known_key_is_reported_with_its_id() -> None:
    log = RefusalLog()
    note(log, "key_expired", key=b"old", principal=Principal("42"))
    assert log.take()[0].key_id == "42"


def test_the_same_key_refused_for_two_reasons_makes_two_groups() -> None:
    log = RefusalLog()
    note(log, "key_expired", key=b"old")
    note(log, "signal_not_allowed", key=b"old")
    assert {refused.reason for refused in log.take()} == {"key_expired", "signal_not_allowed"}


@pytest.mark.parametrize(
    "first,second,groups",
    [
        ("192.0.2.1:1", "192.0.2.254:2", 1),
        ("192.0.2.1:1", "192.0.3.1:1", 2),
        ("[2001:db8:1::1]:1", "[2001:db8:1:ffff::1]:1", 1),
        ("[2001:db8:1::1]:1", "[2001:db8:2::1]:1", 2),
    ],
)
def test_without_a_key_refusals_are_grouped_by_network(
    first: str, second: str, groups: int
) -> None:
    log = RefusalLog()
    note(log, "key_missing", peer=first)
    note(log, "key_missing", peer=second)
    refusals = log.take()
    assert len(refusals) == groups
    assert sum(refused.count for refused in refusals) == 2


def test_a_flood_of_made_up_keys_ends_in_one_group_and_no_refusal_is_lost() -> None:
    log = RefusalLog()
    for number in range(MAX_GROUPS + 500):
        note(log, "key_unknown", key=b"%d" % number)
    note(log, "key_missing")
    refusals = log.take()
    others = {refused.reason: refused.count for refused in refusals if refused.who == OTHER}
    assert others == {"key_unknown": 500, "key_missing": 1}
    assert len(refusals) == MAX_GROUPS + 2
    assert sum(refused.count for refused in refusals) == MAX_GROUPS + 501


def test_known_groups_still_count_when_there_are_too_many() -> None:
    log = RefusalLog(max_groups=1)
    note(log, "key_unknown", key=b"one")
    note(log, "key_unknown", key=b"two")
    note(log, "key_unknown", key=b"one")
    counts = {refused.who: refused.count for refused in log.take()}
    assert counts == {digest_of(b"one").hex()[:8]: 2, OTHER: 1}


def test_taking_begins_anew() -> None:
    log = RefusalLog()
    note(log, "key_unknown", key=b"one")
    log.take()
    assert log.take() == []
    note(log, "key_unknown", key=b"one")
    assert log.take()[0].count == 1
