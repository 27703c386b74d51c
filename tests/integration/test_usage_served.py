"""A real gateway that counts items: from an SDK's exporter to `gateway keys usage`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.support.child import start_child
from tests.support.process import COMMAND, Gateway, running_gateway
from tests.support.sdk import SdkSender
from tests.support.sink import RawSink

WAIT_S = 60.0


async def keys(gateway: Gateway, *arguments: str) -> Any:
    """Run `gateway keys` and return its JSON."""
    process = await start_child(
        *(str(COMMAND), "keys", *arguments, "--config", str(gateway.config_file)),
        *("--output", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


async def usage_of(gateway: Gateway, key_id: int, spans: int) -> dict[str, Any]:
    """Wait until so many spans are in the store, and return the key's row."""
    async with asyncio.timeout(WAIT_S):
        while True:
            shown = await keys(gateway, "usage", "--id", str(key_id), "--by", "key")
            for row in shown["ingestion-api-key-usage"]:
                if row.get("items", {}).get("traces", {}).get("count") == spans:
                    found: dict[str, Any] = row
                    return found


def decoders_of(gateway: Gateway) -> list[int]:
    """Return the processes that count items, among control's children."""
    control = gateway.program.process.pid
    children = Path(f"/proc/{control}/task/{control}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if b"gateway.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def test_items_are_counted_and_a_killed_decoder_costs_no_telemetry(tmp_path: Path) -> None:
    async with RawSink() as sink:
        backends = {
            "otlp_grpc": {"urls": [sink.grpc_url]},
            "otlp_http": {"urls": [sink.http_url]},
        }
        changes = {"backends": backends, "usage": {"sample": True, "samples_per_key": "50/s"}}
        async with running_gateway(tmp_path, changes) as gateway:
            created = await keys(gateway, "create", "--name", "agent", "--owner", "team-a")
            key = created["ingestion-api-key"]
            grpc = SdkSender("grpc", gateway.port, f"StackState {key['apiKey']}", "gzip")
            http = SdkSender("http", gateway.port, f"StackState {key['apiKey']}")
            assert await grpc.send("traces", range(40))
            assert await http.send("traces", range(2))
            row = await usage_of(gateway, key["id"], 42)
            assert (row["requests"], row["name"], row["owner"]) == (2, "agent", "team-a")
            assert row["items"]["traces"] == {"count": 42, "error": 0.0, "samples": 2}

            (decoder,) = decoders_of(gateway)
            assert os.getpriority(os.PRIO_PROCESS, decoder) == 19
            environ = Path(f"/proc/{decoder}/environ").read_bytes()
            assert not re.search(rb"^(?!PATH|PYTHON|LANG|LC_ALL|LD_)\w+=", environ, re.MULTILINE)
            os.kill(decoder, signal.SIGKILL)
            for _ in range(8):
                assert await http.send("traces", range(10))
            async with asyncio.timeout(WAIT_S):
                while decoders_of(gateway) in ([], [decoder]):
                    await asyncio.sleep(0.05)
            assert len(sink.requests) == 10
            _, page = await gateway.get("/metrics")
            assert "gateway_usage_decoder_restarts_total 1.0" in page
