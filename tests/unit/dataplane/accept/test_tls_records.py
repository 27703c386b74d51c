"""Records of TLS that bring data, and such that do not, cut anywhere."""

from __future__ import annotations

import random

import pytest

from gateway.dataplane.accept.tls_records import (
    HAD_DATA,
    MOST_AT_ONCE,
    MOST_DEBT,
    MOST_USELESS,
    SLICE,
    USEFUL_PER_USELESS,
    TlsRecords,
)

KEY_UPDATE_BYTES = 22
LARGEST_BYTES = 16_384 + 256


def record(length: int) -> bytes:
    # What it holds looks like heads of empty records.
    return b"\x17\x03\x03" + length.to_bytes(2, "big") + (b"\x17\x03\x03\0\0" * 4_000)[:length]


def pieces(records: TlsRecords, cipher: bytes) -> list[int]:
    view, lengths = memoryview(cipher), []
    while view:
        length = records.next_piece(view)
        assert 0 < length <= min(len(view), SLICE)
        lengths.append(length)
        view = view[length:]
    return lengths


def test_a_piece_holds_only_so_many_records() -> None:
    one = record(KEY_UPDATE_BYTES)
    most = MOST_AT_ONCE * len(one)
    assert pieces(TlsRecords(), one * (2 * MOST_AT_ONCE + 1)) == [most, most, len(one)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 5, 6, 7, 26, 1_000, 100_000])
@pytest.mark.parametrize("length", [0, 1, KEY_UPDATE_BYTES, LARGEST_BYTES])
def test_all_without_data_are_counted_wherever_they_are_cut(at_once: int, length: int) -> None:
    records = TlsRecords()
    enough = record(length) * MOST_USELESS
    for at in range(0, len(enough), at_once):
        pieces(records, enough[at : at + at_once])
    assert records.debt <= MOST_DEBT
    for byte in record(length):
        pieces(records, bytes([byte]))
    assert records.debt > MOST_DEBT


def test_records_with_data_are_free_whatever_their_size() -> None:
    lengths = random.Random(1)
    records = TlsRecords()
    for _ in range(100 * MOST_USELESS):
        pieces(records, record(lengths.choice([1, 17, 300, LARGEST_BYTES])))
        records.debt -= HAD_DATA
    assert records.debt <= MOST_DEBT


@pytest.mark.parametrize("paid_for", [True, False])
def test_records_with_data_pay_for_some_without(paid_for: bool) -> None:
    records = TlsRecords()
    for _ in range(10 * MOST_USELESS):
        pieces(records, record(KEY_UPDATE_BYTES))
        for _ in range(USEFUL_PER_USELESS if paid_for else USEFUL_PER_USELESS // 2):
            pieces(records, record(100))
            records.debt -= HAD_DATA
    assert (records.debt <= MOST_DEBT) is paid_for


def test_what_was_not_needed_pays_for_nothing_later() -> None:
    records = TlsRecords()
    for _ in range(1_000):
        pieces(records, record(100))
        records.debt -= HAD_DATA
    pieces(records, record(KEY_UPDATE_BYTES) * (MOST_USELESS + 1))
    assert records.debt > MOST_DEBT


def test_the_records_of_the_handshake_are_forgotten_but_not_where_one_begins() -> None:
    records = TlsRecords()
    whole = record(1) * MOST_USELESS + record(500)
    pieces(records, whole[:-400])
    records.debt = 0
    pieces(records, whole[-400:] + record(KEY_UPDATE_BYTES) * MOST_USELESS)
    assert records.debt <= MOST_DEBT
    pieces(records, record(KEY_UPDATE_BYTES))
    assert records.debt > MOST_DEBT
