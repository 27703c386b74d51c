"""The HTTP exporters of four SDKs lose no batch when the gateway ends their connections, though the
network takes time and none of them retries: every end is announced before it comes.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.interop.fleet import AUTHORIZATION
from tests.support.decode import batch_of, numbers
from tests.support.network import network_to
from tests.support.process import Gateway, Program, running, running_gateway
from tests.support.sink import RawSink

Tool = Callable[[str], Path]

EXPORTERS: Final = ("exporter-go", "exporter-node", "exporter-rust", "exporter-java")
ONE_WAY_S: Final = 0.025
SENDERS: Final = 8
BATCHES: Final = 100
"""Of each sender."""
SPANS_PER_BATCH: Final = 5
PAUSE_MS: Final = 30
"""The longest pause between two batches: often a connection is idle when its end is due."""
SPANS: Final = set(range(SENDERS * BATCHES * SPANS_PER_BATCH))
CONNECTIONS: Final = 2 * SENDERS
"""At least so many were made: senders had to connect again."""


def _command(program: Path, port: int, batches: int, authorization: str) -> list[str | Path]:
    url = f"http://127.0.0.1:{port}/v1/traces"
    return [program, url, authorization, str(SENDERS), str(batches), str(PAUSE_MS)]


def _overrides(sink: RawSink, age: str) -> dict[str, object]:
    return {
        "backends": {"otlp_http": {"urls": [sink.http_url]}},
        "limits": {"max_connection_age": age},
    }


def _check(exporter: Program, sink: RawSink) -> None:
    assert f"batches {SENDERS * BATCHES}, failed 0" in exporter.stdout, exporter.output
    arrived: Counter[int] = Counter()
    for request in sink.requests:
        arrived.update(numbers(batch_of(request)))
    assert set(arrived) == SPANS
    print(f"{exporter.name}: {arrived.total() - len(SPANS)} spans came twice")  # noqa: T201 - shown by -rP


@pytest.mark.parametrize("name", EXPORTERS)
async def test_no_batch_fails_though_connections_get_old(
    tool: Tool, tmp_path: Path, name: str
) -> None:
    async with (
        RawSink() as sink,
        running_gateway(tmp_path, _overrides(sink, "2s")) as gateway,
        network_to(gateway.port, ONE_WAY_S) as network,
        running(_command(tool(name), network.entrance, BATCHES, AUTHORIZATION)) as exporter,
    ):
        await exporter.wait(within_s=90)
        _check(exporter, sink)
        assert network.connections >= CONNECTIONS


@pytest.mark.parametrize("name", EXPORTERS)
async def test_no_batch_fails_though_the_configuration_is_read_again_and_again(
    tool: Tool, tmp_path: Path, name: str
) -> None:
    async with (
        RawSink() as sink,
        running_gateway(tmp_path, _overrides(sink, "10m")) as gateway,
        network_to(gateway.port, ONE_WAY_S) as network,
        running(_command(tool(name), network.entrance, BATCHES, AUTHORIZATION)) as exporter,
    ):
        reloading = asyncio.create_task(_reload_again_and_again(gateway))
        await exporter.wait(within_s=90)
        reloading.cancel()
        _check(exporter, sink)
        assert network.connections >= CONNECTIONS


async def _reload_again_and_again(gateway: Gateway) -> None:
    while True:
        await asyncio.sleep(2)  # how often it happens, not what is waited for
        gateway.program.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("name", EXPORTERS)
async def test_an_exporter_counts_batches_that_fail(tool: Tool, tmp_path: Path, name: str) -> None:
    """So that `failed 0` above means something."""
    async with (
        RawSink() as sink,
        running_gateway(tmp_path, _overrides(sink, "10m")) as gateway,
        running(_command(tool(name), gateway.port, 2, "StackState unknown")) as exporter,
    ):
        await exporter.wait()
        assert f"batches {SENDERS * 2}, failed {SENDERS * 2}" in exporter.stdout, exporter.output
        assert sink.requests == []
