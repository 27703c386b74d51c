"""Run a real OpenTelemetry Collector, and `telemetrygen`, as senders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.bodies import SIGNALS
from tests.support.clients import Response, http1_request
from tests.support.exchange import PROTOBUF
from tests.support.process import Program, free_ports, merge, running

READY = "Everything is ready"
WILL_RETRY = "Exporting failed. Will retry"
DROPPED = "Exporting failed. Dropping data."
"""What the Collector's exporter helper logs when it keeps a batch, and when it gives it up."""


@dataclass(frozen=True, slots=True)
class Collector:
    """A running Collector that exports what its own OTLP receiver takes in."""

    program: Program
    http_port: int

    async def send(self, signal: str, numbers: Iterable[int]) -> None:
        """Hand the Collector one numbered batch (it must take it)."""
        response = await self.try_to_send(signal, numbers)
        assert response.status == 200, response

    async def try_to_send(self, signal: str, numbers: Iterable[int]) -> Response:
        """Hand the Collector one numbered batch; without a queue it says what became of it."""
        under_test = SIGNALS[signal]
        body = under_test.make(numbers).SerializeToString()
        fields = [("content-type", PROTOBUF), ("content-length", str(len(body)))]
        return await http1_request(self.http_port, under_test.http_path, fields, body)

    def logged(self, text: str) -> int:
        """Return how many log lines contain `text`."""
        return sum(text in line for line in self.program.stderr)


def collector_config(
    part: Mapping[str, Any], port: int, signals: Sequence[str], folder: Path
) -> Path:
    """Write a configuration around `part` (extensions and exporters) and return its file.

    Every exporter of `part` gets every signal; nothing batches, so one request in is one out.
    """
    exporters = list(part["exporters"])
    whole = merge(
        part,
        {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
            "service": {
                "extensions": list(part.get("extensions", {})),
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    signal: {"receivers": ["otlp"], "exporters": exporters} for signal in signals
                },
            },
        },
    )
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(whole))
    return file


@asynccontextmanager
async def running_collector(
    binary: Path,
    folder: Path,
    part: Mapping[str, Any],
    signals: Sequence[str] = ("traces", "metrics", "logs"),
) -> AsyncIterator[Collector]:
    """Run a Collector with the extensions and exporters of `part` until the end of a block.

    Raises:
        ProgramError: it does not start; the text holds its log.

    """
    (port,) = free_ports(1)
    config = collector_config(part, port, signals, folder)
    command: list[str | Path] = [binary, "--config", f"file:{config}"]
    if "profiles" in signals:
        command.append("--feature-gates=service.profilesSupport")
    async with running(command, cwd=folder) as program:
        await program.wait_line(READY)
        yield Collector(program, port)
        await program.stop()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where `telemetrygen` sends to, and with which credential."""

    port: int
    authorization: str
    ca_file: Path | None = None
    """TLS with this authority; None is cleartext."""


async def telemetrygen(
    binary: Path, signal: str, destination: Destination, *, count: int, over_http: bool
) -> Program:
    """Run `telemetrygen` to its end; returns the ended program."""
    command: list[str | Path] = [
        binary,
        signal,
        f"--otlp-endpoint=localhost:{destination.port}",
        f'--otlp-header=Authorization="{destination.authorization}"',
        f"--{signal}={count}",
        "--rate=0",
        "--workers=1",
    ]
    if over_http:
        command += ["--otlp-http", f"--otlp-http-url-path={SIGNALS[signal].http_path}"]
    if destination.ca_file is None:
        command.append("--otlp-insecure")
    else:
        command.append(f"--ca-cert={destination.ca_file}")
    async with running(command) as program:
        await program.wait()
        return program
