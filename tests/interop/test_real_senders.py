"""Real senders through the installed gateway: each numbered item arrives exactly once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.interop.fleet import AUTHORIZATION, Fleet
from tests.interop.recording import send_with_curl
from tests.support.bodies import SIGNALS, json_body
from tests.support.collector import Destination, running_collector, telemetrygen
from tests.support.process import KEY
from tests.support.sdk import SDK_SIGNALS, SdkSender

pytestmark = pytest.mark.asyncio(loop_scope="module")

BATCHES = 5
ITEMS_PER_BATCH = 20
TOTAL = BATCHES * ITEMS_PER_BATCH

Tool = Callable[[str], Path]


def batches() -> list[range]:
    """Return the numbers of each batch; together they are 0 … TOTAL - 1."""
    return [range(start, start + ITEMS_PER_BATCH) for start in range(0, TOTAL, ITEMS_PER_BATCH)]


async def through_a_collector(
    fleet: Fleet, binary: Path, folder: Path, part: dict[str, Any]
) -> None:
    """Send every signal's numbered batches through a Collector; each must arrive once."""
    fleet.forget()
    async with running_collector(binary, folder, part, list(SIGNALS)) as collector:
        for signal in SIGNALS:
            for numbers in batches():
                await collector.send(signal, numbers)
        for signal in SIGNALS:
            await fleet.wait_items(signal, TOTAL)
    # The Collector has ended and flushed all that it had: nothing can come twice any more.
    for signal in SIGNALS:
        assert fleet.seen(signal) == dict.fromkeys(range(TOTAL), 1)
    fleet.check()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "snappy"])
async def test_a_collectors_grpc_exporter_with_bearertokenauth_over_tls(
    fleet: Fleet, tool: Tool, tmp_path: Path, compression: str
) -> None:
    part = {
        "extensions": {"bearertokenauth": {"scheme": "StackState", "token": KEY}},
        "exporters": {
            "otlp/stackstate": {
                "auth": {"authenticator": "bearertokenauth"},
                "endpoint": f"localhost:{fleet.tls_port}",
                "tls": {"ca_file": str(fleet.ca_file)},
                "compression": compression,
            }
        },
    }
    await through_a_collector(fleet, tool("otelcol"), tmp_path, part)
    assert {r.http_version for r in fleet.sink.requests} == {"2"}
    assert {r.field("grpc-encoding") for r in fleet.sink.requests} == {
        None if compression == "none" else compression
    }


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "snappy"])
async def test_a_collectors_http_exporter_with_bearertokenauth_over_tls(
    fleet: Fleet, tool: Tool, tmp_path: Path, compression: str
) -> None:
    part = {
        "extensions": {"bearertokenauth": {"scheme": "StackState", "token": KEY}},
        "exporters": {
            "otlphttp/stackstate": {
                "auth": {"authenticator": "bearertokenauth"},
                "endpoint": f"https://localhost:{fleet.tls_port}",
                "tls": {"ca_file": str(fleet.ca_file)},
                "compression": compression,
            }
        },
    }
    await through_a_collector(fleet, tool("otelcol"), tmp_path, part)
    assert {r.http_version for r in fleet.sink.requests} == {"1.1"}
    assert {r.field("content-encoding") for r in fleet.sink.requests} == {
        None if compression == "none" else compression
    }


async def test_a_collectors_grpc_exporter_with_static_headers_over_cleartext(
    fleet: Fleet, tool: Tool, tmp_path: Path
) -> None:
    part = {
        "exporters": {
            "otlp/stackstate": {
                "headers": {"Authorization": AUTHORIZATION},
                "endpoint": f"127.0.0.1:{fleet.port}",
                "tls": {"insecure": True},
            }
        },
    }
    await through_a_collector(fleet, tool("otelcol"), tmp_path, part)


async def test_a_collectors_http_exporter_with_json_over_cleartext(
    fleet: Fleet, tool: Tool, tmp_path: Path
) -> None:
    fleet.forget()
    part = {
        "exporters": {
            "otlphttp/stackstate": {
                "headers": {"Authorization": AUTHORIZATION},
                "endpoint": f"http://127.0.0.1:{fleet.port}",
                "encoding": "json",
            }
        },
    }
    async with running_collector(tool("otelcol"), tmp_path, part, ["logs"]) as collector:
        for numbers in batches():
            await collector.send("logs", numbers)
        await fleet.wait_items("logs", TOTAL)
    assert fleet.seen("logs") == dict.fromkeys(range(TOTAL), 1)
    fleet.check()


@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("over_http", [False, True], ids=["grpc", "http"])
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
async def test_telemetrygen(
    fleet: Fleet, tool: Tool, signal: str, *, over_http: bool, secure: bool
) -> None:
    fleet.forget()
    destination = (
        Destination(fleet.tls_port, AUTHORIZATION, fleet.ca_file)
        if secure
        else Destination(fleet.port, AUTHORIZATION)
    )

    ended = await telemetrygen(
        tool("telemetrygen"), signal, destination, count=TOTAL, over_http=over_http
    )

    assert ended.process.returncode == 0, ended.output
    items = 2 if signal == "traces" else 1  # a trace is a parent and a child
    assert fleet.items(signal) == TOTAL * items
    assert {r.http_version for r in fleet.sink.requests} == {"1.1" if over_http else "2"}
    fleet.check()


@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_python_sdk(
    fleet: Fleet, protocol: Literal["grpc", "http"], compression: str, *, secure: bool
) -> None:
    fleet.forget()
    port = fleet.tls_port if secure else fleet.port
    ca_file = fleet.ca_file if secure else None
    sender = SdkSender(protocol, port, AUTHORIZATION, compression, ca_file)

    for signal in SDK_SIGNALS:
        for numbers in batches():
            assert await sender.send(signal, numbers)

    for signal in SDK_SIGNALS:
        assert fleet.seen(signal) == dict.fromkeys(range(TOTAL), 1)
    fleet.check()


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
async def test_curl_with_json_after_the_specifications_rules(
    fleet: Fleet, curl: Path, tmp_path: Path, signal: str
) -> None:
    fleet.forget()
    url = f"http://127.0.0.1:{fleet.port}{SIGNALS[signal].http_path}"

    status, answer = await send_with_curl(curl, url, json_body(signal, range(TOTAL)), tmp_path)

    assert (status, answer) == (200, "{}")
    assert fleet.seen(signal) == dict.fromkeys(range(TOTAL), 1)
    fleet.check()


async def test_curl_with_a_key_that_nobody_knows_is_told_so(
    fleet: Fleet, curl: Path, tmp_path: Path
) -> None:
    fleet.forget()
    url = f"http://127.0.0.1:{fleet.port}/v1/traces"
    body = json_body("traces", range(TOTAL))

    status, answer = await send_with_curl(
        curl, url, body, tmp_path, authorization="StackState nobody-knows-this-key"
    )

    assert status == 401
    assert "the API key is unknown" in answer
    assert fleet.sink.requests == []
    fleet.check()
