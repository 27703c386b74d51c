from __future__ import annotations

from gateway.control.grpc_api.admission import peer_host
from gateway.control.grpc_api.feed_log import FeedLog
from gateway.keys.record import KeyDelta
from gateway.model import KeyEntry, Principal


def _note(log: FeedLog, revision: int, *changed: bytes, gone: tuple[bytes, ...] = ()) -> None:
    entries = [KeyEntry(digest, Principal("1")) for digest in changed]
    log.note(KeyDelta(revision, entries, list(gone)))


def test_who_is_behind_gets_what_changed_since_each_once() -> None:
    log = FeedLog(5)
    _note(log, 6, b"a", b"b")
    _note(log, 7, b"a", gone=(b"c",))
    _note(log, 8)

    assert log.after(5) == [b"a", b"b", b"c"]
    assert log.after(6) == [b"a", b"c"]
    assert log.after(7) == log.after(8) == []


def test_what_is_not_remembered_is_not_guessed() -> None:
    log = FeedLog(5, most_digests=2)
    _note(log, 6, b"a", b"b")
    _note(log, 7, b"c")

    assert log.after(4) is None
    assert log.after(5) is None
    assert log.after(6) == [b"c"]
    assert log.after(8) is None


def test_a_change_of_very_many_keys_sends_followers_back_to_the_beginning() -> None:
    log = FeedLog(5, most_digests=2)
    _note(log, 6, b"a", b"b", b"c")

    assert log.after(5) is None
    assert log.after(6) == []


def test_each_change_wakes_those_who_follow() -> None:
    log = FeedLog(5)
    event = log.follow()
    _note(log, 6)
    assert event.is_set()
    event.clear()
    log.leave(event)
    _note(log, 7)
    assert not event.is_set()


def test_two_runs_have_different_histories() -> None:
    assert FeedLog(1).history != FeedLog(1).history


def test_the_callers_address_is_read_from_grpcs_form() -> None:
    assert peer_host("ipv4:10.0.0.1:5000") == "10.0.0.1"
    assert peer_host("ipv6:%5Bfd00::1%5D:5000") == "fd00::1"
    assert peer_host("ipv6:[::ffff:10.0.0.1]:5000") == "10.0.0.1"
    assert peer_host("unix:/socket") == ""
