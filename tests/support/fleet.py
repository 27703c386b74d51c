"""Several gateways with one store, and senders that send as much as they may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.process import KEY, Gateway, merge, running_gateway
from tests.support.sink import RawSink

PAUSE_S: Final = 0.02
"""Between two requests of one sender."""
WAIT_S: Final = 30.0
"""Only taken by a test that fails."""


@asynccontextmanager
async def running_fleet(
    folder: Path, sink: RawSink, count: int, store: str, limits: Mapping[str, Any]
) -> AsyncIterator[list[Gateway]]:
    """Run gateways, each with a folder of its own, until the block ends."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_member(folder / f"gateway-{number}", sink, store, limits)
            )
            for number in range(count)
        ]


@asynccontextmanager
async def running_member(
    folder: Path,
    sink: RawSink,
    store: str,
    limits: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> AsyncIterator[Gateway]:
    """Run one gateway of a fleet."""
    folder.mkdir()
    settings = {
        "workers": 1,
        "limits": limits,
        "keys": {"stores": [store]},
        "backends": {"otlp_http": {"urls": [sink.http_url]}},
    }
    async with running_gateway(folder, merge(settings, more or {})) as gateway:
        yield gateway


async def metric(gateway: Gateway, name: str) -> float | None:
    """Read a series without labels; None where there is none."""
    _, page = await gateway.get("/metrics")
    lines = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[1]) if lines else None


async def until_metric(gateway: Gateway, name: str, value: float) -> None:
    """Return as soon as a series has a value."""
    async with asyncio.timeout(WAIT_S):
        while await metric(gateway, name) != value:
            await asyncio.sleep(0.05)


async def until_fleet(gateways: list[Gateway], count: int) -> None:
    """Return when each of these shares limits with so many, itself included."""
    for gateway in gateways:
        await until_metric(gateway, "gateway_limit_gateways", count)


@dataclass(slots=True)
class Counts:
    """What senders were told, by status, and in what time."""

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def accepted(self) -> int:
        """How many requests were accepted."""
        return self.statuses.get(200, 0)


async def send(
    gateway: Gateway, seconds: float, *, rate: float, body: bytes = b"{}", key: str = KEY
) -> Counts:
    """Send so many requests a second, as far as the gateway follows, and count what it says."""
    counts = Counts()
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    begin = time.monotonic()
    sent = 0
    async with aiohttp.ClientSession(headers=headers) as session:
        while (passed := time.monotonic() - begin) < seconds:
            if sent >= (passed + PAUSE_S) * rate:
                await asyncio.sleep(PAUSE_S / 2)
                continue
            sent += 1
            url = f"http://127.0.0.1:{gateway.port}/v1/traces"
            async with session.post(url, data=body) as answer:
                await answer.read()
                counts.statuses[answer.status] = counts.statuses.get(answer.status, 0) + 1
    counts.seconds = time.monotonic() - begin
    return counts


async def send_to_all(gateways: list[Gateway], seconds: float, rates: list[float]) -> list[Counts]:
    """Send to each of them at once, at a rate of its own."""
    pairs = zip(gateways, rates, strict=True)
    return list(await asyncio.gather(*(send(each, seconds, rate=rate) for each, rate in pairs)))


async def refusal(gateway: Gateway, key: str = KEY) -> tuple[int, str, str]:
    """Send one request; return the status, `Retry-After` and the reason in the answer."""
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{gateway.port}/v1/traces"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, data=b"{}") as answer,
    ):
        details = (await answer.json()).get("details", [{}])
        return answer.status, answer.headers.get("Retry-After", ""), details[0].get("reason", "")


async def until_reason(gateway: Gateway, reason: str) -> None:
    """Send requests until one is refused for a reason."""
    async with asyncio.timeout(WAIT_S):
        while (await refusal(gateway))[2] != reason:
            await asyncio.sleep(0.05)
