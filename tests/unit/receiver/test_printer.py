from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from gateway.receiver.printer import LinePrinter

PIPE_BYTES = 64 * 1024
LINE = "x" * 1023


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):  # closed by the test
            os.close(descriptor)


async def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    printer = LinePrinter(writer, on_broken=pytest.fail)
    for number in range(100):
        await printer.write(f"line {number} ü")
    await printer.close()
    lines = os.read(reader, PIPE_BYTES).decode().splitlines()
    assert lines == [f"line {number} ü" for number in range(100)]


def _fill(writer: int) -> int:
    """Fill a pipe to the brim; returns how many bytes it holds."""
    os.set_blocking(writer, False)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += os.write(writer, b"\0" * 4096)
    os.set_blocking(writer, True)
    return size


async def test_a_reader_who_takes_nothing_holds_writers_back_at_the_bound(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    size = _fill(writer)
    pending = 8
    printer = LinePrinter(writer, on_broken=pytest.fail, pending=pending)
    for _ in range(pending):
        await printer.write(LINE)
    one_more = asyncio.create_task(printer.write(LINE))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not one_more.done()

    os.read(reader, size)
    await one_more
    assert await printer.close()
    assert os.read(reader, size).decode().splitlines() == [LINE] * (pending + 1)


async def test_a_reader_who_is_gone_is_told_once_and_holds_nobody_back(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    broken: list[bool] = []
    printer = LinePrinter(writer, on_broken=lambda: broken.append(True), pending=2)
    os.close(reader)
    for _ in range(50):
        await printer.write(LINE)
    await printer.close()
    assert broken == [True]


async def test_closing_gives_up_on_a_reader_who_takes_nothing(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    _fill(writer)
    printer = LinePrinter(writer, on_broken=lambda: None)
    await printer.write(LINE)
    assert not await printer.close(patience_s=0.01)
