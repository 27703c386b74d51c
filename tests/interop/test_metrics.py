"""What `/metrics` says, judged by Prometheus' own tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.fleet import AUTHORIZATION, Fleet
from tests.support.child import start_child
from tests.support.sdk import SDK_SIGNALS, SdkSender

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def check_metrics(promtool: Path, text: str) -> tuple[int, str]:
    """Return the exit code and the complaints of `promtool check metrics`."""
    process = await start_child(
        promtool,
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_exposition_is_clean_at_rest_and_after_traffic(
    fleet: Fleet, tool: Callable[[str], Path]
) -> None:
    fleet.forget()
    promtool = tool("promtool")
    _, at_rest = await fleet.gateway.get("/metrics")

    for signal in SDK_SIGNALS:
        assert await SdkSender("grpc", fleet.port, AUTHORIZATION).send(signal, [1])
        assert await SdkSender("http", fleet.port, AUTHORIZATION).send(signal, [1])
        assert not await SdkSender("http", fleet.port, "StackState unknown").send(signal, [1])
    _, after_traffic = await fleet.gateway.get("/metrics")

    assert "gateway_requests_total" in at_rest
    assert await check_metrics(promtool, at_rest) == (0, "")
    assert await check_metrics(promtool, after_traffic) == (0, "")
    fleet.check()


async def test_promtool_does_complain_about_a_bad_exposition(tool: Callable[[str], Path]) -> None:
    """The judge is awake."""
    bad = "# TYPE gateway_things counter\ngateway_things 1\n"
    code, output = await check_metrics(tool("promtool"), bad)
    assert code == 3
    assert "no help text" in output
