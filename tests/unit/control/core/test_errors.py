from __future__ import annotations

import asyncio
import ssl

import pytest
from structlog.testing import capture_logs

from gateway.control.core.errors import ErrorReporter


async def test_what_reaches_the_event_loop_is_counted() -> None:
    failures: list[int] = []
    errors = ErrorReporter(lambda: failures.append(1))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(errors.on_loop_error)

    def callback() -> None:
        msg = "a bug in a callback"
        raise ValueError(msg)

    with capture_logs() as logs:
        loop.call_soon(callback)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert failures == [1]
    assert str(logs[0]["exc_info"]) == "a bug in a callback"


@pytest.mark.parametrize("error", [ConnectionResetError(), ssl.SSLError(), TimeoutError()])
async def test_what_a_peer_broke_is_no_internal_error(error: Exception) -> None:
    failures: list[int] = []
    errors = ErrorReporter(lambda: failures.append(1))
    with capture_logs() as logs:
        errors.on_loop_error(asyncio.get_running_loop(), {"exception": error})
    assert (failures, logs) == ([], [])
