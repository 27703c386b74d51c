"""The receiver's HTTP/1.1 side, byte by byte."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.receiver import ReceivedRequest, Receiver
from gateway.receiver.server import split_address

HEAD = b"POST /v1/logs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"


async def _talk(receiver: Receiver, request: bytes) -> bytes:
    """Send bytes; return all that comes until the receiver closes."""
    reader, writer = await asyncio.open_connection(*split_address(receiver.http_address))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_asks_whether_to_go_on_is_told_so() -> None:
    async with Receiver() as receiver:
        reader, writer = await asyncio.open_connection(*split_address(receiver.http_address))
        writer.write(HEAD + CLOSE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_requests_that_come_at_once_are_answered_in_order() -> None:
    records: list[ReceivedRequest] = []
    one = HEAD + b"Content-Length: 2\r\n\r\n{}"
    chunked = HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    async with Receiver(records.append) as receiver:
        answer = await _talk(receiver, one + one + chunked)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert [(record.bytes, record.answer) for record in records] == [(2, "200")] * 3


async def test_a_first_byte_alone_does_not_tell_the_protocol() -> None:
    async with Receiver() as receiver:
        reader, writer = await asyncio.open_connection(*split_address(receiver.http_address))
        for part in (b"P", b"OST /v1/logs HTTP/1.1\r\n", CLOSE, b"Host: a\r\n\r\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(b"HTTP/1.1 415 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_refused_without_a_traceback(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[ReceivedRequest] = []
    caplog.set_level(logging.DEBUG, "gateway")
    async with Receiver(records.append) as receiver:
        assert b" 400 " in (await _talk(receiver, request_)).partition(b"\r\n")[0]
    assert records == []
    assert caplog.records == []


async def test_a_bug_costs_one_request_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    failures = [ValueError("a bug")]

    def take(_record: ReceivedRequest) -> None:
        if failures:
            raise failures.pop()

    one = HEAD + b"Content-Length: 2\r\n\r\n{}"
    last = HEAD + CLOSE + b"Content-Length: 2\r\n\r\n{}"
    async with Receiver(take) as receiver:
        answer = await _talk(receiver, one + last)
    assert [answer.count(status) for status in (b" 500 ", b" 200 ")] == [1, 1]
    assert [record.message for record in caplog.records] == [
        "a request could not be handled: please report this bug"
    ]
