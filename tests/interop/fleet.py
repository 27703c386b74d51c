"""One gateway and one recording backend, shared by the tests of a module."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.certs import Certificate
from tests.support.decode import batch_of, count, numbers, signal_of
from tests.support.process import KEY, WAIT_S, Gateway, running_gateway
from tests.support.sink import RawSink, Request

AUTHORIZATION = f"StackState {KEY}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running gateway in front of a sink."""

    gateway: Gateway
    sink: RawSink
    ca_file: Path

    @property
    def port(self) -> int:
        """The cleartext port."""
        return self.gateway.port

    @property
    def tls_port(self) -> int:
        """The port that speaks TLS."""
        assert self.gateway.tls_port is not None
        return self.gateway.tls_port

    def forget(self) -> None:
        """Forget what earlier tests sent."""
        self.sink.requests.clear()

    def check(self) -> None:
        """Fail on anything that the sink met with and no test took."""
        faults = self.sink.take_faults()
        assert not faults, faults

    def seen(self, signal: str) -> Counter[int]:
        """Return how often each number has arrived for a signal."""
        arrived: Counter[int] = Counter()
        for request in self.of_signal(signal):
            arrived.update(numbers(batch_of(request)))
        return arrived

    def items(self, signal: str) -> int:
        """Return how many items have arrived for a signal, numbered or not."""
        return sum(count(batch_of(request)) for request in self.of_signal(signal))

    def of_signal(self, signal: str) -> list[Request]:
        """Return the requests that carried a signal."""
        return [request for request in self.sink.requests if signal_of(request) == signal]

    async def wait_items(self, signal: str, number: int) -> None:
        """Return as soon as a signal's items have arrived (raises TimeoutError)."""
        await self.sink.wait_until(
            lambda: self.items(signal) >= number, f"{number} items of {signal}"
        )


async def counted(gateway: Gateway, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that carry these labels, as `/metrics` shows it."""
    _, text = await gateway.get("/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def until_counted(gateway: Gateway, name: str, **labels: str) -> None:
    """Return as soon as a metric's sum is above 0 (raises TimeoutError)."""
    async with asyncio.timeout(WAIT_S):
        while not await counted(gateway, name, **labels):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_fleet(
    folder: Path,
    tls: Certificate,
    ca_file: Path,
    overrides: Mapping[str, Any] | None = None,
) -> AsyncIterator[Fleet]:
    """Run a gateway, cleartext and TLS, in front of a sink for the length of a block."""
    async with RawSink() as sink:
        backends = {
            "otlp_grpc": {"urls": [sink.grpc_url]},
            "otlp_http": {"urls": [sink.http_url]},
        }
        whole = {"backends": backends, **(overrides or {})}
        async with running_gateway(folder, whole, tls=tls) as gateway:
            yield Fleet(gateway, sink, ca_file)
