from __future__ import annotations

import mmap
import os
import struct

import pytest

from gateway.control.counts import NOT_ALIVE, Counts


def test_all_slots_are_free_at_first() -> None:
    counts = Counts(3)
    assert counts.read() == [NOT_ALIVE] * 3
    counts.close()


def test_control_sees_what_a_worker_writes_and_can_free_its_slot() -> None:
    counts = Counts(2)
    worker_s = mmap.mmap(os.dup(counts.fd), 2 * 8)
    struct.pack_into("<q", worker_s, 8, 41)
    assert counts.read() == [NOT_ALIVE, 41]
    counts.free(1)
    assert struct.unpack_from("<q", worker_s, 8) == (NOT_ALIVE,)
    worker_s.close()
    counts.close()


def test_freeing_a_slot_of_a_map_that_was_given_back_does_nothing() -> None:
    counts = Counts(2)
    counts.close()
    counts.free(1)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_nobody_can_change_the_map_s_size(size: int) -> None:
    counts = Counts(2)
    with pytest.raises(PermissionError):
        os.ftruncate(counts.fd, size)
    counts.close()


def test_the_descriptor_is_not_inherited_by_accident() -> None:
    counts = Counts(1)
    assert not os.get_inheritable(counts.fd)
    counts.close()
