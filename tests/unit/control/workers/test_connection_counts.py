from __future__ import annotations

import mmap
import os
import struct

import pytest

from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.worker_contract import ALIVE, NOT_ACCEPTING


def test_all_slots_are_free_at_first() -> None:
    counts = ConnectionCounts(3)
    assert counts.read() == [NOT_ACCEPTING] * 3
    counts.close()


def test_control_sees_what_a_worker_writes_and_can_free_its_slot() -> None:
    counts = ConnectionCounts(2)
    worker_s = mmap.mmap(os.dup(counts.fd), 2 * 8)
    struct.pack_into("<q", worker_s, 8, 41)
    assert counts.read() == [NOT_ACCEPTING, 41]
    counts.free(1)
    assert struct.unpack_from("<q", worker_s, 8) == (NOT_ACCEPTING,)
    worker_s.close()
    counts.close()


def test_a_sign_of_life_counts_once_and_for_its_worker_only() -> None:
    counts = ConnectionCounts(2)
    worker_s = mmap.mmap(os.dup(counts.fd), 4 * 8)
    assert not counts.take_sign_of_life(1)
    struct.pack_into("<q", worker_s, 3 * 8, ALIVE)
    assert not counts.take_sign_of_life(0)
    assert counts.take_sign_of_life(1)
    assert not counts.take_sign_of_life(1)
    assert counts.read() == [NOT_ACCEPTING, NOT_ACCEPTING]
    worker_s.close()
    counts.close()
    assert not counts.take_sign_of_life(1)


def test_freeing_a_slot_of_a_map_that_was_given_back_does_nothing() -> None:
    counts = ConnectionCounts(2)
    counts.close()
    counts.free(1)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_nobody_can_change_the_map_s_size(size: int) -> None:
    counts = ConnectionCounts(2)
    with pytest.raises(PermissionError):
        os.ftruncate(counts.fd, size)
    counts.close()


def test_the_descriptor_is_not_inherited_by_accident() -> None:
    counts = ConnectionCounts(1)
    assert not os.get_inheritable(counts.fd)
    counts.close()
