"""What a key that is deleted may still finish (see docs/security.md)."""

from __future__ import annotations

import asyncio

from tests.support.plane import KEY, entry, running_worker, sink_backends
from tests.support.sink import RawSink

HEAD = (
    "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
    f"Authorization: StackState {KEY}\r\nContent-Length: 2\r\n\r\n"
).encode()


async def _status(reader: asyncio.StreamReader) -> bytes:
    """Read an answer to the end of its body; return its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
    return head.split()[1]


async def test_an_upload_that_was_admitted_finishes_and_the_next_one_is_refused() -> None:
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(HEAD + b"\x0a")
        await gateway.until(lambda: any(gateway.context.counters.in_flight.values()))
        gateway.load_keys()  # the key is gone
        writer.write(b"\x00" + HEAD + b"\x0a\x00")
        assert await _status(reader) == b"200"
        assert await _status(reader) == b"401"
        writer.close()
