from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.channel import Refused
from gateway.demo.live import Live
from gateway.demo.screen import Screen
from gateway.demo.view import REASONS, LiveView
from gateway.model import Protocol, Signal
from gateway.outcome import AuthOutcome
from gateway.receiver import ReceivedRequest

AT = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
RECORD = ReceivedRequest(
    time=AT,
    protocol=Protocol.GRPC,
    path="/x",
    signal=Signal.METRICS,
    services=("shop",),
    items=2,
    bytes=612,
    encoding="gzip",
    content_type="application/grpc",
    headers={"x-gateway-key-id": "17", "x-gateway-key-name": "laptop"},
    sha256="ab" * 32,
    peer="127.0.0.1:5000",
    answer="OK",
)
REFUSED = Refused(
    who="1a2b3c4d",
    reason="key_revoked",
    count=1,
    peer="10.0.0.7:4000",
    scheme="StackState",
    key_id="17",
    digest_prefix="1a2b3c4d",
    protocol="http",
    signal="traces",
)


def _name(key_id: str) -> str:
    return {"17": "laptop"}.get(key_id, "")


PLAIN = LiveView(_name, is_fancy=False)
FANCY = LiveView(_name, is_fancy=True)


def test_an_arrival_is_told_with_service_signal_items_bytes_and_key() -> None:
    line = PLAIN.arrived(RECORD)
    assert line.isprintable()
    for part in ("accepted", "metrics", "shop", "2 data points", "612 bytes", "gzip", "key laptop"):
        assert part in line


def test_what_the_receiver_cannot_read_is_told_as_such() -> None:
    line = PLAIN.arrived(replace(RECORD, answer="400", error="not JSON"))
    assert "accepted" not in line
    assert "400, not JSON" in line


def test_a_refusal_is_told_with_reason_and_sender() -> None:
    line = PLAIN.refused(REFUSED, AT)
    for part in (
        "refused",
        "traces",
        "the API key was deleted",
        "from 10.0.0.7:4000",
        "key laptop (17)",
    ):
        assert part in line
    assert "times" not in line


def test_several_refusals_are_one_line_with_their_number() -> None:
    changed = _refused(count=7)
    assert "(7 times)" in PLAIN.refused(changed, AT)


def test_an_unknown_key_is_told_by_its_digest_and_an_unnamed_one_by_its_id() -> None:
    assert "sha256 1a2b3c4d" in PLAIN.refused(_refused(key_id="", reason="key_unknown"), AT)
    assert "key 99" in PLAIN.refused(_refused(key_id="99"), AT)


def test_every_refusal_has_words() -> None:
    assert set(REASONS) == set(AuthOutcome) - {AuthOutcome.ALLOWED}


def test_a_reason_that_is_not_known_is_shown_as_it_is() -> None:
    assert "brand_new" in PLAIN.refused(_refused(reason="brand_new"), AT)


def test_colours_stand_on_terminals_only() -> None:
    assert "\x1b[" in FANCY.arrived(RECORD)
    assert "\x1b[" in FANCY.refused(REFUSED, AT)
    assert "\x1b" not in PLAIN.refused(REFUSED, AT)


def test_a_terminals_line_is_not_wrapped() -> None:
    long = replace(RECORD, services=tuple(f"service-{number}" for number in range(50)))
    assert "\n" not in FANCY.arrived(long)


def test_a_senders_text_cannot_steer_the_terminal() -> None:
    line = PLAIN.arrived(replace(RECORD, services=("\x1b[2J",), encoding="\x07"))
    assert line.isprintable()
    assert PLAIN.arrived(replace(RECORD, error="\x1b[2J", answer="404")).isprintable()
    assert PLAIN.refused(_refused(scheme="\x1b[2J"), AT).isprintable()


def test_a_senders_text_is_no_markup() -> None:
    assert "[bold]x[/bold]" in FANCY.arrived(replace(RECORD, services=("[bold]x[/bold]",)))


def _refused(**changes: str | int) -> Refused:
    fields = {name: getattr(REFUSED, name) for name in REFUSED.__struct_fields__}
    return Refused(**{**fields, **changes})


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):  # closed by the test
            os.close(descriptor)


async def test_what_comes_before_the_beginning_is_shown_after_it(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    screen = Screen(writer, on_broken=pytest.fail)
    live = Live(screen, is_fancy=False)
    arriving = asyncio.create_task(live.arrived(RECORD))
    await screen.show("banner\nof two lines")
    assert not arriving.done()
    live.begin(_name)
    await arriving
    live.refused(REFUSED)
    await screen.close()
    lines = os.read(reader, 65536).decode().splitlines()
    assert lines[:2] == ["banner", "of two lines"]
    assert "accepted" in lines[2]
    assert "key laptop" in lines[3]


async def test_refusals_that_nobody_reads_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    screen = Screen(writer, on_broken=pytest.fail)
    for number in range(1500):
        screen.offer(f"line {number}")
    reading = asyncio.create_task(asyncio.to_thread(_read_until, reader, b"not shown"))
    text = await reading
    assert "… and 500 more lines, not shown" in text
    assert "line 0\n" in text
    await screen.close()


def _read_until(descriptor: int, end: bytes) -> str:
    data = b""
    while end not in data:
        data += os.read(descriptor, 65536)
    return data.decode()
