"""Damaged HTTP/1.1 on real sockets: every connection ends, nothing is held, no bug is met.

`running_worker` checks at its end that no byte is charged, no request in flight, no alarm raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import h11
import pytest

from gateway.model import BackendName
from tests.support.plane import KEY, backend, entry, running_worker
from tests.support.raw_http1 import BrokenOffError, RawBackend, RawPeer, raw_backend, raw_client

ROUNDS = 150
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = (
    "POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    f"Authorization: StackState {KEY}\r\n"
).encode()
REQUESTS = (
    HEAD + b"Content-Length: 5\r\n\r\nhello",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    HEAD.replace(b"1.1", b"1.0") + b"Content-Length: 5\r\n\r\nhello",
    b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: x, close\r\n\r\n",
    b"POST /nowhere HTTP/1.1\r\nHost: gateway\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000),
)
ANSWERS = (
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000),
)
NOISE = (b"\r\n", b"\n", b"\r", b"\x00", b" ", b":", b"0", b"-1", b"\xff", b"Content-Length: 3\r\n")


def flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.randrange(256)


def cut(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randrange(1, 20)]


def insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice(NOISE)


def end_early(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) + 1 :]


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, cut, insert, end_early)


def damaged(samples: tuple[bytes, ...], chance: random.Random) -> bytes:
    """Return one to three samples, damaged in up to three places, or not at all."""
    data = bytearray(b"".join(chance.choices(samples, k=chance.randrange(1, 4))))
    for _ in range(chance.randrange(4)):
        if data:
            chance.choice(DAMAGE)(data, chance)
    return bytes(data)


async def serve(sink: RawBackend, answer: Callable[[], bytes]) -> None:
    """Answer every request on every connection; close after an answer that says so."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(serve_one(await sink.connection(), answer))


async def serve_one(upstream: RawPeer, answer: Callable[[], bytes]) -> None:
    with contextlib.suppress(BrokenOffError, ConnectionError):
        while True:
            await upstream.receive_request()
            data = answer()
            await upstream.send(data)
            if data != OK:
                upstream.close()


async def send_in_parts(client: RawPeer, data: bytes, chance: random.Random) -> None:
    with contextlib.suppress(ConnectionError):
        while data:
            length = chance.randrange(1, len(data) + 1)
            await client.send(data[:length])
            data = data[length:]
            await asyncio.sleep(0)
        client.finish_sending()


def check_answers(data: bytes) -> None:
    """Check that these are whole answers, but for the last one."""
    while data:
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
        http.send(h11.EndOfMessage())
        http.receive_data(data)
        while (event := http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage):
                break
        if event is h11.NEED_DATA:
            return
        data = http.trailing_data[0]


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_requests_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    async with raw_backend() as sink:
        url = f"http://127.0.0.1:{sink.port}"
        async with running_worker(
            backends=[backend(BackendName.OTLP_HTTP, url)], keys=[entry(KEY)]
        ) as gateway:
            serving = asyncio.create_task(serve(sink, lambda: OK))
            for _ in range(ROUNDS):
                async with raw_client(gateway.port) as client:
                    await send_in_parts(client, damaged(REQUESTS, chance), chance)
                    with contextlib.suppress(BrokenOffError):
                        check_answers(await client.read_to_end())
            async with raw_client(gateway.port) as client:
                await client.send(REQUESTS[0])
                assert (await client.receive_answer()).body == b"ok"
            serving.cancel()


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_answers_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    async with raw_backend() as sink:
        url = f"http://127.0.0.1:{sink.port}"
        async with running_worker(
            backends=[backend(BackendName.OTLP_HTTP, url)], keys=[entry(KEY)]
        ) as gateway:
            damage = True
            serving = asyncio.create_task(
                serve(sink, lambda: damaged(ANSWERS, chance) if damage else OK)
            )
            for _ in range(ROUNDS):
                async with raw_client(gateway.port) as client:
                    await client.send(REQUESTS[0])
                    client.finish_sending()
                    with contextlib.suppress(BrokenOffError):
                        check_answers(await client.read_to_end())
            damage = False
            async with raw_client(gateway.port) as client:
                await client.send(REQUESTS[0])
                assert (await client.receive_answer()).body == b"ok"
            serving.cancel()
