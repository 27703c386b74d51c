"""What control logs about requests that are not HTTP/1.1."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from gateway.control.admin.http_server import NoRawRequests

CANARY = "StackState canary-key"


def _record(error: BaseException | None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("http", logging.ERROR, "f", 1, "from %s: %s", ("peer", CANARY), info)


def test_raw_bytes_of_a_foreign_protocol_are_not_logged() -> None:
    """One line a minute, without the request."""
    now = [0.0]
    only = NoRawRequests(clock=lambda: now[0])
    first, second, third = (_record(BadHttpMessage(CANARY)) for _ in range(3))
    assert only.filter(first)
    assert (first.levelname, first.exc_info) == ("WARNING", None)
    assert CANARY not in first.getMessage()
    assert not only.filter(second)
    now[0] = 61.0
    assert only.filter(third)


@pytest.mark.parametrize("error", [None, RuntimeError("a bug")])
def test_everything_else_is_logged_as_it_is(error: BaseException | None) -> None:
    record = _record(error)
    assert NoRawRequests().filter(record)
    assert record.levelno == logging.ERROR
    assert (record.exc_info is None) == (error is None)


async def test_a_grpc_client_on_an_admin_address_leaves_no_bytes_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a real server and the bytes that such a client sends."""
    from aiohttp import web  # noqa: PLC0415 - a server for this test alone

    from gateway.control.admin import http_server  # noqa: PLC0415 - its logger

    runner = web.AppRunner(web.Application(), logger=http_server._http_log)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + CANARY.encode() + b"\x00\x01\r\n\r\n")
    await reader.read()
    writer.close()
    await runner.cleanup()
    assert CANARY not in caplog.text
    assert "canary" not in caplog.text
