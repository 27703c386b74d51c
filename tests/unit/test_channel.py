"""The channel between control and a worker: what is not seen from either side."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.channel import Channel, ChannelError, Down, Forget, Unready, Up
from tests.support.polling import until


async def test_who_sends_much_gives_way_even_when_the_other_side_takes_all_at_once() -> None:
    """Else control could not pass a revocation on while it sends a snapshot."""
    ours, theirs = socket.socketpair()
    channel = Channel.for_control(lambda _: None, lambda: None)
    loop = asyncio.get_running_loop()
    with theirs:
        await loop.create_unix_connection(lambda: channel, sock=ours)
        for _ in range(3):
            others: list[str] = []
            loop.call_soon(others.append, "had a turn")
            channel.send(Forget([]))
            assert channel.is_writable
            await channel.drain()
            assert others == ["had a turn"]
        channel.close()


async def test_what_comes_while_a_side_holds_waits_until_it_goes_on() -> None:
    ours, theirs = socket.socketpair()
    taken: list[Down | Up] = []
    worker = Channel.for_worker(taken.append, lambda: None)
    control = Channel.for_control(lambda _: None, lambda: None)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: worker, sock=ours)
    await loop.create_unix_connection(lambda: control, sock=theirs)
    worker.hold()
    control.send(Unready())
    for _ in range(10):
        await asyncio.sleep(0)
    assert taken == []
    worker.go_on()
    await until(lambda: taken == [Unready()])
    worker.close()
    for each in (worker, control):
        each.hold()
        each.go_on()
    await until(lambda: worker._transport is None and control._transport is None)
    worker.hold()
    worker.go_on()


@pytest.mark.parametrize("payload", [b"\x82\xa4type\xa5Ready\xa3p\xa3d\x01", b"\xc1", b"\x80", b""])
def test_what_is_no_message_is_an_error_of_the_channel(payload: bytes) -> None:
    """Also where a text in it is not UTF-8: the first of these."""
    control = Channel.for_control(lambda _: None, lambda: None)

    with pytest.raises(ChannelError):
        control.data_received(len(payload).to_bytes(4, "big") + payload)
