from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.record import KeyDelta, KeyRecord, StaticKey
from gateway.keys.registry import Registry
from gateway.keys.store import Changes
from gateway.model import KeyState, Principal, digest_of


def _record(number: int, revision: int = 1, **changes: object) -> KeyRecord:
    record = KeyRecord(
        id=number,
        digest=digest_of(b"key %d" % number),
        name=f"name-{number}",
        created_ms=1,
        updated_ms=1_000 + revision,
        revision=revision,
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]  # by field names


def _registry(stores: int = 1, *static: StaticKey) -> Registry:
    return Registry(static, stores, with_names=False)


def _full(*records: KeyRecord) -> Changes:
    return Changes(1, records, complete=True)


def _partial(*records: KeyRecord) -> Changes:
    return Changes(1, records, complete=False)


def test_a_new_key_is_told_with_its_principal() -> None:
    delta = _registry().apply(0, _partial(_record(1, expires_at_ms=99)))

    ((digest, principal),) = delta.upserts
    assert digest == digest_of(b"key 1")
    assert principal == Principal("1", expires_at_ms=99)
    assert delta.removals == []
    assert delta.changed_at_ms == 1_001


def test_names_travel_only_where_workers_need_them() -> None:
    registry = Registry((), 1, with_names=True)

    delta = registry.apply(0, _partial(_record(1)))

    assert delta.upserts[0].principal.name == "name-1"


def test_every_change_makes_the_next_revision_even_one_without_effect() -> None:
    registry = _registry()
    before = registry.revision

    first = registry.apply(0, _full(_record(1)))
    second = registry.apply(0, _full(_record(1)))

    assert (first.revision, second.revision) == (before + 1, before + 2)
    assert second == KeyDelta(second.revision, [], [], None)


def test_a_deleted_key_stays_known_as_revoked() -> None:
    registry = _registry()
    registry.apply(0, _full(_record(1)))

    delta = registry.apply(0, _partial(_record(1, 2, deleted_at_ms=5)))

    assert delta.upserts[0].principal.state == KeyState.REVOKED
    found = registry.find("1")
    assert found is not None
    assert found.name == "name-1"


def test_what_is_missing_from_a_complete_reading_is_gone() -> None:
    registry = _registry()
    registry.apply(0, _full(_record(1), _record(2)))

    delta = registry.apply(0, _full(_record(2)))

    assert delta.upserts == []
    assert delta.removals == [digest_of(b"key 1")]
    assert registry.find("1") is None


def test_what_is_missing_from_a_partial_reading_stays() -> None:
    registry = _registry()
    registry.apply(0, _full(_record(1)))

    delta = registry.apply(0, _partial(_record(2)))

    assert delta.removals == []
    assert registry.find("1") is not None


def test_the_first_store_decides_about_a_key_that_two_have() -> None:
    registry = _registry(2)
    revoked = _record(1, deleted_at_ms=5)
    elsewhere = dataclasses.replace(_record(1), id=100)
    registry.apply(0, _full(revoked))

    delta = registry.apply(1, _full(elsewhere))

    assert [entry.principal.key_id for entry in delta.upserts] == ["1"]
    assert [entry.principal.key_id for entry in registry.entries()] == ["1"]


def test_a_key_that_leaves_the_first_store_is_decided_by_the_second() -> None:
    registry = _registry(2)
    registry.apply(0, _full(_record(1)))
    registry.apply(1, _full(dataclasses.replace(_record(1), id=100)))

    delta = registry.apply(0, _full())

    assert [entry.principal.key_id for entry in delta.upserts] == ["100"]
    assert delta.removals == []


def test_a_static_key_counts_before_every_store() -> None:
    registry = _registry(1, StaticKey("prod", digest_of(b"key 1")))

    delta = registry.apply(0, _full(_record(1, deleted_at_ms=5)))

    assert [entry.principal.key_id for entry in delta.upserts] == ["static:prod"]


def test_replaced_static_keys_uncover_what_stores_say() -> None:
    registry = _registry(1, StaticKey("a", digest_of(b"key 1")), StaticKey("b", digest_of(b"b")))
    registry.apply(0, _full(_record(1)))

    delta = registry.replace_static([StaticKey("c", digest_of(b"c"))])

    assert {entry.principal.key_id for entry in delta.upserts} == {"1", "static:c"}
    assert delta.removals == [digest_of(b"b")]
    assert registry.find("static:a") is None
    assert registry.find("static:c") is not None


def test_tombstones_are_forgotten_when_their_time_is_over() -> None:
    registry = _registry()
    registry.apply(0, _full(_record(1, deleted_at_ms=5), _record(2, deleted_at_ms=6), _record(3)))

    delta = registry.forget_tombstones(6)

    assert delta is not None
    assert delta.removals == [digest_of(b"key 1")]
    assert registry.find("1") is None
    assert registry.find("2") is not None
    assert registry.forget_tombstones(6) is None


def test_a_key_that_a_backup_brings_back_is_no_tombstone_any_more() -> None:
    registry = _registry()
    registry.apply(0, _full(_record(1, 2, deleted_at_ms=5)))

    registry.apply(0, _full(_record(1, 1)))

    assert registry.forget_tombstones(10**15) is None
    assert registry.counts(0) == {"active": 1, "expired": 0}


def test_keys_are_counted_by_whether_they_have_expired() -> None:
    registry = _registry(1, StaticKey("prod", digest_of(b"static")))
    registry.apply(
        0,
        _full(
            _record(1),
            _record(2, expires_at_ms=100),
            _record(3, expires_at_ms=101),
            _record(4, deleted_at_ms=5),
            _record(5, enabled=False),
        ),
    )

    assert registry.counts(100) == {"active": 3, "expired": 1}


records = st.builds(
    _record,
    st.integers(1, 6),
    st.integers(1, 3),
    enabled=st.booleans(),
    deleted_at_ms=st.sampled_from([None, 5, 50]),
)
readings = st.tuples(
    st.integers(0, 1),
    st.builds(
        Changes, st.just(1), st.lists(records, unique_by=lambda r: r.id, max_size=4), st.booleans()
    ),
)


@given(st.lists(readings, max_size=12), st.integers(0, 12))
def test_who_applies_all_deltas_knows_what_a_newcomer_is_told(
    changes: list[tuple[int, Changes]], purge_after: int
) -> None:
    registry = _registry(2, StaticKey("prod", digest_of(b"key 1")))
    keyring = {entry.digest: entry.principal for entry in registry.entries()}
    for turn, (store, reading) in enumerate(changes):
        deltas = [registry.apply(store, reading)]
        purged = registry.forget_tombstones(50) if turn == purge_after else None
        for delta in [*deltas, *([purged] if purged else [])]:
            keyring.update(delta.upserts)
            for digest in delta.removals:
                keyring.pop(digest, None)

    assert keyring == {entry.digest: entry.principal for entry in registry.entries()}
