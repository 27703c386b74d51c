"""What an authority has confirmed, kept over a restart."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path
from typing import Final

import pytest

from gateway.keys.authority.verdict_file import NAME, VerdictFile
from gateway.keys.state_file import StateFileError
from gateway.model import digest_of

URLS: Final = ["http://h/authorize"]
CONFIRMED: Final = [(bytes(digest_of(b"%d" % number)), 1_000 + number) for number in range(100)]


async def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    await VerdictFile(tmp_path / "state", URLS).write(CONFIRMED)
    assert await VerdictFile(tmp_path / "state", URLS).read() == CONFIRMED


async def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert await VerdictFile(tmp_path, URLS).read() == []


async def test_a_file_is_replaced_as_a_whole_by_one_writer_at_a_time(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, URLS)
    await asyncio.gather(*(file.write(CONFIRMED[:count]) for count in range(1, 20)))
    assert await file.read() == CONFIRMED[: len(await file.read())]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


async def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, URLS)
    await file.write(CONFIRMED[:2])
    whole = file.path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        file.path.write_bytes(damaged)
        with pytest.raises(StateFileError):
            await file.read()
        file.path.write_bytes(whole[:position])
        with pytest.raises(StateFileError):
            await file.read()


async def test_a_file_with_a_text_that_is_not_utf8_is_damaged(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, ["http://?/authorize"])
    await file.write(CONFIRMED[:2])
    whole = file.path.read_bytes()
    magic = whole[: whole.index(b"\n") + 1]
    payload = whole[len(magic) + 4 :].replace(b"?", b"\xa3")
    file.path.write_bytes(magic + zlib.crc32(payload).to_bytes(4, "big") + payload)

    with pytest.raises(StateFileError, match="damaged"):
        await file.read()


async def test_the_file_of_other_authorities_is_not_used(tmp_path: Path) -> None:
    await VerdictFile(tmp_path, URLS).write(CONFIRMED)
    with pytest.raises(StateFileError, match="other authorities"):
        await VerdictFile(tmp_path, ["http://other/authorize"]).read()


async def test_a_file_that_others_could_have_written_is_not_used(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, URLS)
    await file.write(CONFIRMED)
    file.path.chmod(0o666)
    with pytest.raises(StateFileError, match="other users"):
        await file.read()


async def test_a_file_that_a_volume_gave_to_its_group_is_used(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, URLS)
    await file.write(CONFIRMED)
    file.path.chmod(0o660)
    assert await file.read() == CONFIRMED
    assert file.path.stat().st_mode & 0o777 == 0o600


async def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path, URLS)
    await file.write(CONFIRMED)
    blocked = VerdictFile(tmp_path / NAME, URLS)  # its folder is a file
    with pytest.raises(OSError, match=NAME):
        await blocked.write(CONFIRMED)
    assert await file.read() == CONFIRMED
