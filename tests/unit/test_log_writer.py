"""Whoever reads the log may be slow, stuck or gone: nobody who logs waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from gateway.log_writer import LineWriter

_LONG_S: Final = 60.0
"""Never reached: the time within which a test would be stuck."""


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[list[int]]:
    """Yield the reading and the writing end; a test may close one and take it out."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def _read(descriptor: int, length: int) -> bytes:
    found = b""
    while len(found) < length:
        found += os.read(descriptor, length - len(found))
    return found


def test_lines_are_written_in_order(pipe: list[int]) -> None:
    writer = LineWriter(pipe[1])
    lines = [b"line %d\n" % number for number in range(1_000)]
    for line in lines:
        writer.write(line)
    writer.flush(_LONG_S)
    assert _read(pipe[0], len(b"".join(lines))) == b"".join(lines)
    assert writer.take_dropped() == 0


def test_nobody_waits_for_a_log_that_nobody_reads_and_what_is_dropped_is_told(
    pipe: list[int],
) -> None:
    writer = LineWriter(pipe[1], max_held_bytes=1_000_000)
    writer.tell_dropped = "{} were dropped".format
    line = b"x" * 999 + b"\n"
    for _ in range(3_000):  # a pipe takes 64 kB
        writer.write(line)
    dropped = writer.take_dropped()
    assert dropped >= 1_900
    assert writer.take_dropped() == 0
    found = b""
    while not found.endswith(b"\n") or found.count(line) + dropped < 3_000:
        found += os.read(pipe[0], 1 << 16)
    writer.flush(_LONG_S)
    writer.write(b"again\n")
    while not found.endswith(b"again\n"):
        found += os.read(pipe[0], 1 << 16)
    told = [int(each.split()[0]) for each in found.splitlines() if each.endswith(b"were dropped")]
    assert sum(told) == dropped
    assert found.count(line) + dropped == 3_000


def test_a_reader_that_is_gone_is_no_error_and_the_lines_count_as_dropped(pipe: list[int]) -> None:
    os.close(pipe.pop(0))
    writer = LineWriter(pipe[0])
    writer.write(b"one\n")
    writer.flush(_LONG_S)
    assert writer.take_dropped() == 1


def test_a_flush_does_not_wait_for_ever(pipe: list[int]) -> None:
    writer = LineWriter(pipe[1])
    writer.write(b"x" * 200_000)
    writer.flush(0.01)
    assert len(_read(pipe[0], 200_000)) == 200_000


def test_a_descriptor_that_another_program_made_non_blocking_gets_whole_lines(
    pipe: list[int],
) -> None:
    os.set_blocking(pipe[1], False)
    writer = LineWriter(pipe[1])
    writer.write(b"y" * 200_000)
    assert _read(pipe[0], 200_000) == b"y" * 200_000
    assert writer.take_dropped() == 0
