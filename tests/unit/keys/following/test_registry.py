from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.following.registry import Registry
from gateway.keys.record import KeyDelta, KeyRecord, StaticKey
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
    return msgspec.structs.replace(record, **changes)


def _registry(stores: int = 1, *static: StaticKey) -> Registry:
    return Registry(static, stores, with_names=False)


def _full(registry: Registry, store: int, *records: KeyRecord) -> KeyDelta:
    """Have everything in the store be `records`; what was told is given as one change."""
    load = registry.load(store)
    told = [load.add(records, tell=True), *load.finish()]
    deltas = [delta for delta in told if delta is not None]
    return KeyDelta(
        registry.revision,
        [entry for delta in deltas for entry in delta.upserts],
        [digest for delta in deltas for digest in delta.removals],
        next((delta.changed_at_ms for delta in deltas), None),
    )


def _partial(registry: Registry, store: int, *records: KeyRecord) -> KeyDelta:
    delta = registry.apply(store, records)
    assert delta is not None
    return delta


def test_a_new_key_is_told_with_its_principal() -> None:
    delta = _partial(_registry(), 0, _record(1, expires_at_ms=99))

    ((digest, principal),) = delta.upserts
    assert digest == digest_of(b"key 1")
    assert principal == Principal("1", expires_at_ms=99)
    assert delta.removals == []
    assert delta.changed_at_ms == 1_001


def test_names_travel_only_where_workers_need_them() -> None:
    registry = Registry((), 1, with_names=True)

    delta = _partial(registry, 0, _record(1))

    assert delta.upserts[0].principal.name == "name-1"


def test_every_change_makes_the_next_revision_and_none_makes_none() -> None:
    registry = _registry()
    before = registry.revision

    first = _full(registry, 0, _record(1))
    second = _full(registry, 0, _record(1))

    assert (first.revision, second.revision) == (before + 1, before + 1)
    assert second == KeyDelta(second.revision, [], [], None)


def test_a_deleted_key_stays_known_as_revoked() -> None:
    registry = _registry()
    _full(registry, 0, _record(1))

    delta = _partial(registry, 0, _record(1, 2, deleted_at_ms=5))

    assert delta.upserts[0].principal.state == KeyState.REVOKED
    found = registry.find("1")
    assert found is not None
    assert found.name == "name-1"


def test_what_is_missing_from_a_complete_reading_is_gone() -> None:
    registry = _registry()
    _full(registry, 0, _record(1), _record(2))

    delta = _full(registry, 0, _record(2))

    assert delta.upserts == []
    assert delta.removals == [digest_of(b"key 1")]
    assert registry.find("1") is None


def test_what_is_missing_from_a_partial_reading_stays() -> None:
    registry = _registry()
    _full(registry, 0, _record(1))

    delta = _partial(registry, 0, _record(2))

    assert delta.removals == []
    assert registry.find("1") is not None


def test_the_first_store_decides_about_a_key_that_two_have() -> None:
    registry = _registry(2)
    revoked = _record(1, deleted_at_ms=5)
    elsewhere = msgspec.structs.replace(_record(1), id=100)
    _full(registry, 0, revoked)

    delta = _full(registry, 1, elsewhere)

    assert [entry.principal.key_id for entry in delta.upserts] == ["1"]
    assert [entry.principal.key_id for entry in registry.entries()] == ["1"]


def test_a_key_that_leaves_the_first_store_is_decided_by_the_second() -> None:
    registry = _registry(2)
    _full(registry, 0, _record(1))
    _full(registry, 1, msgspec.structs.replace(_record(1), id=100))

    delta = _full(registry, 0)

    assert [entry.principal.key_id for entry in delta.upserts] == ["100"]
    assert delta.removals == []


def test_a_static_key_counts_before_every_store() -> None:
    registry = _registry(1, StaticKey("prod", digest_of(b"key 1")))

    delta = _full(registry, 0, _record(1, deleted_at_ms=5))

    assert [entry.principal.key_id for entry in delta.upserts] == ["static:prod"]


def test_replaced_static_keys_uncover_what_stores_say() -> None:
    registry = _registry(1, StaticKey("a", digest_of(b"key 1")), StaticKey("b", digest_of(b"b")))
    _full(registry, 0, _record(1))

    delta = registry.replace_static([StaticKey("c", digest_of(b"c"))])

    assert {entry.principal.key_id for entry in delta.upserts} == {"1", "static:c"}
    assert delta.removals == [digest_of(b"b")]
    assert registry.find("static:a") is None
    assert registry.find("static:c") is not None


def test_tombstones_are_forgotten_when_their_time_is_over() -> None:
    registry = _registry()
    _full(registry, 0, _record(1, deleted_at_ms=5), _record(2, deleted_at_ms=6), _record(3))

    delta = registry.forget_tombstones(6)

    assert delta is not None
    assert delta.removals == [digest_of(b"key 1")]
    assert registry.find("1") is None
    assert registry.find("2") is not None
    assert registry.forget_tombstones(6) is None


def test_a_key_that_a_backup_brings_back_is_no_tombstone_any_more() -> None:
    registry = _registry()
    _full(registry, 0, _record(1, 2, deleted_at_ms=5))

    _full(registry, 0, _record(1, 1))

    assert registry.forget_tombstones(10**15) is None
    assert registry.counts(0) == {"active": 1, "expired": 0}


def test_keys_are_counted_by_whether_they_have_expired() -> None:
    registry = _registry(1, StaticKey("prod", digest_of(b"static")))
    _full(
        registry,
        0,
        _record(1),
        _record(2, expires_at_ms=100),
        _record(3, expires_at_ms=101),
        _record(4, deleted_at_ms=5),
        _record(5, enabled=False),
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
    st.sampled_from(["all", "all, with a change meanwhile", "changes", "suspend", "resume"]),
    st.lists(records, unique_by=lambda r: r.id, max_size=4),
)


def _take(registry: Registry, store: int, what: str, read: list[KeyRecord]) -> list[KeyDelta]:
    deltas: list[KeyDelta | None]
    if what == "changes":
        deltas = [registry.apply(store, read)]
    elif what in {"suspend", "resume"}:
        deltas = [*registry.suspend(store, is_suspended=what == "suspend")]
    else:
        load = registry.load(store)
        deltas = [load.add(read[:2], tell=True)]
        if what != "all":
            deltas.append(registry.apply(store, [_record(number, 9) for number in (1, 2)]))
        deltas += [load.add(read[2:], tell=True), *load.finish()]
    return [delta for delta in deltas if delta is not None]


@given(st.lists(readings, max_size=12), st.integers(0, 12))
def test_who_applies_all_deltas_knows_what_a_newcomer_is_told(
    changes: list[tuple[int, str, list[KeyRecord]]], purge_after: int
) -> None:
    registry = _registry(2, StaticKey("prod", digest_of(b"key 1")))
    keyring = {entry.digest: entry.principal for entry in registry.entries()}
    revision = registry.revision
    for turn, (store, what, read) in enumerate(changes):
        deltas = _take(registry, store, what, read)
        purged = registry.forget_tombstones(50) if turn == purge_after else None
        for delta in [*deltas, *([purged] if purged else [])]:
            assert delta.revision == revision + 1
            revision = delta.revision
            keyring.update(delta.upserts)
            for digest in delta.removals:
                keyring.pop(digest, None)

    assert keyring == {entry.digest: entry.principal for entry in registry.entries()}


def test_what_is_known_twice_or_late_changes_nothing() -> None:
    registry = _registry()
    _partial(registry, 0, _record(1, 5, deleted_at_ms=9))

    assert registry.apply(0, [_record(1, 4)]) is None
    assert registry.apply(0, [_record(1, 5, deleted_at_ms=9)]) is None


def test_a_change_that_comes_while_all_is_read_stays() -> None:
    registry = _registry()
    _full(registry, 0, _record(1), _record(2))

    load = registry.load(0)
    _partial(registry, 0, _record(1, 7, deleted_at_ms=9), _record(3, 8))
    told = [load.add([_record(1)], tell=True), *load.finish()]

    assert [delta.removals for delta in told if delta] == [[digest_of(b"key 2")]]
    deleted, new = registry.find("1"), registry.find("3")
    assert deleted is not None
    assert deleted.state is KeyState.REVOKED
    assert new is not None


def test_the_keys_of_a_suspended_store_are_not_told_and_come_back() -> None:
    registry = _registry(2)
    _full(registry, 0, _record(1), _record(2))
    _full(registry, 1, msgspec.structs.replace(_record(2), id=20), _record(3))

    (suspended,) = registry.suspend(0, is_suspended=True)
    told = {entry.principal.key_id for entry in registry.entries()}
    (resumed,) = registry.suspend(0, is_suspended=False)

    assert suspended.removals == [digest_of(b"key 1")]
    assert [entry.principal.key_id for entry in suspended.upserts] == ["20"]
    assert told == {"20", "3"}
    assert {entry.principal.key_id for entry in resumed.upserts} == {"1", "2"}
    assert {entry.principal.key_id for entry in registry.entries()} == {"1", "2", "3"}


def test_all_keys_are_given_in_parts_as_they_are_when_asked() -> None:
    registry = _registry()
    _full(registry, 0, *(_record(number) for number in range(1, 6)))
    entries = registry.entries()
    _partial(registry, 0, _record(2, 2, deleted_at_ms=9))

    assert len(entries) == 5
    assert [entry.principal.key_id for entry in entries[3:]] == ["4", "5"]
    assert entries[1].principal.state == KeyState.REVOKED


def test_whether_unknown_keys_exist_is_told_once() -> None:
    registry = _registry()

    first = registry.set_complete(is_complete=False)

    assert first == KeyDelta(registry.revision, [], [], None, complete=False)
    assert registry.set_complete(is_complete=False) is None
    assert not _partial(registry, 0, _record(1)).complete


def test_keys_of_which_a_store_says_nothing_any_more_are_forgotten() -> None:
    registry = _registry()
    _full(registry, 0, _record(1), _record(2))

    delta = registry.apply(0, [_record(3)], [digest_of(b"key 1"), digest_of(b"never known")])

    assert delta is not None
    assert delta.removals == [digest_of(b"key 1")]
    assert [entry.principal.key_id for entry in delta.upserts] == ["3"]
    assert registry.find("1") is None


def test_a_key_forgotten_while_everything_is_read_does_not_come_back() -> None:
    registry = _registry()
    _full(registry, 0, _record(1), _record(2))
    load = registry.load(0)

    registry.apply(0, [], [digest_of(b"key 1")])
    load.add([_record(1), _record(2)], tell=True)

    assert [*load.finish()] == []
    assert registry.find("1") is None
    assert registry.find("2") is not None


def test_a_store_that_counts_its_revisions_anew_tells_nothing_anew() -> None:
    registry = _registry()
    _full(registry, 0, _record(1, 7, updated_ms=5))
    before = registry.revision
    load = registry.load(0)

    assert load.add([_record(1, 2, updated_ms=5)], tell=True) is None
    assert [*load.finish()] == []

    assert registry.revision == before
    later = registry.apply(0, [_record(1, 3, updated_ms=6, enabled=False)])
    assert later is not None


def test_stores_are_asked_whatever_static_keys_there_are() -> None:
    registry = _registry(2, StaticKey("prod", digest_of(b"key 1")))
    _full(registry, 0, _record(1))
    _full(registry, 1, _record(1), _record(2))

    stored = registry.stored(digest_of(b"key 1"))
    assert stored is not None
    assert stored.id == 1
    assert sorted(registry.stored_digests()) == sorted([digest_of(b"key 1"), digest_of(b"key 2")])
