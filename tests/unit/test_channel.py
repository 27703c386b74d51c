"""The channel between control and a worker: what is not seen from either side."""

from __future__ import annotations

import asyncio
import socket

from gateway.channel import Channel, Forget


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
