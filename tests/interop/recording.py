"""Record what each real sender sends, to replay it byte for byte.

`python -m tests.interop.recording` (from the project's root, with the tools built) writes
`recordings/`: one file for each sender, protocol and compression. Run it after a change of the
pinned senders and review the difference: it is what changed on the wire.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, Self

from tests.interop.fleet import AUTHORIZATION
from tests.interop.tools.build import build_all
from tests.support.bodies import json_body
from tests.support.collector import Destination, running_collector, telemetrygen
from tests.support.decode import signal_of
from tests.support.exchange import JSON, Fields, Request
from tests.support.process import running
from tests.support.sdk import SDK_SIGNALS, SdkSender
from tests.support.sink import RawSink

FOLDER = Path(__file__).parent / "recordings"

NUMBERS = (1, 2, 3)
"""The items of every recorded batch (telemetrygen numbers its own)."""

_GRPC_COMPRESSIONS = ("none", "gzip", "zstd", "snappy")
_HTTP_COMPRESSIONS = (
    *_GRPC_COMPRESSIONS,
    "x-snappy-framed",
    "zlib",
    "deflate",
    "lz4",
)
_SDK_COMPRESSIONS = ("none", "gzip", "deflate")
_COLLECTOR_SIGNALS = ("traces", "metrics", "logs", "profiles")

Tool = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class Recording:
    """One request of a real sender, without what names the sink (host and authority)."""

    name: str
    protocol: Literal["grpc", "http"]
    signal: str
    path: str
    fields: Fields
    body: bytes

    @classmethod
    def of(cls, name: str, request: Request) -> Self:
        """Make a recording of what a sink took in."""
        return cls(
            name=name,
            protocol="grpc" if request.is_grpc else "http",
            signal=signal_of(request),
            path=request.path,
            fields=tuple(field for field in request.fields if field[0] != "host"),
            body=request.body,
        )

    def write(self, folder: Path) -> None:
        """Write the recording's file."""
        content = {
            "protocol": self.protocol,
            "signal": self.signal,
            "path": self.path,
            "fields": self.fields,
            "body": base64.b64encode(self.body).decode(),
        }
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a recording's file."""
        content = json.loads(file.read_text())
        fields = tuple((name, value) for name, value in content["fields"])
        body = base64.b64decode(content["body"])
        return cls(file.stem, content["protocol"], content["signal"], content["path"], fields, body)


def _exporters(sink: RawSink) -> dict[str, Any]:
    """Return one exporter of the Collector for each protocol, compression and encoding."""
    common = {
        "headers": {"Authorization": AUTHORIZATION},
        "retry_on_failure": {"enabled": False},
        "sending_queue": {"enabled": False},
    }
    grpc = {"endpoint": f"127.0.0.1:{sink.grpc_port}", "tls": {"insecure": True}}
    http = {"endpoint": sink.http_url}
    exporters = {f"otlp/{c}": {**common, **grpc, "compression": c} for c in _GRPC_COMPRESSIONS}
    for compression in _HTTP_COMPRESSIONS:
        exporters[f"otlphttp/{compression}"] = {**common, **http, "compression": compression}
    exporters["otlphttp/json-gzip"] = {**common, **http, "compression": "gzip", "encoding": "json"}
    return exporters


async def _record_collector(tool: Tool, folder: Path) -> AsyncIterator[Recording]:
    """Record the Collector's exporters one by one, each with the next signal."""
    async with RawSink() as sink:
        for (name, exporter), signal in zip(
            _exporters(sink).items(), cycle(_COLLECTOR_SIGNALS), strict=False
        ):
            if "json" in name:  # the Collector's JSON of the other signals is no different
                signal = "traces"  # noqa: PLW2901
            part = {"exporters": {name: exporter}}
            before = len(sink.requests)
            async with running_collector(tool("otelcol"), folder, part, [signal]) as collector:
                await collector.send(signal, NUMBERS)
                await sink.wait_for(before + 1)
            yield Recording.of(f"otelcol-{name.replace('/', '-')}", sink.requests[before])


async def _record_telemetrygen(tool: Tool) -> AsyncIterator[Recording]:
    for over_http, signal in ((False, "traces"), (True, "logs")):
        async with RawSink() as sink:
            port = sink.http_port if over_http else sink.grpc_port
            binary = tool("telemetrygen")
            destination = Destination(port, AUTHORIZATION)
            await telemetrygen(binary, signal, destination, count=1, over_http=over_http)
            name = f"telemetrygen-{'http' if over_http else 'grpc'}"
            yield Recording.of(name, sink.requests[0])


async def _record_sdk() -> AsyncIterator[Recording]:
    protocols: tuple[Literal["grpc", "http"], ...] = ("grpc", "http")
    signals = cycle(SDK_SIGNALS)
    for protocol in protocols:
        for compression in _SDK_COMPRESSIONS:
            async with RawSink() as sink:
                port = sink.grpc_port if protocol == "grpc" else sink.http_port
                sender = SdkSender(protocol, port, AUTHORIZATION, compression)
                await sender.send(next(signals), NUMBERS)
                yield Recording.of(f"python-sdk-{protocol}-{compression}", sink.requests[0])


async def send_with_curl(
    curl: Path, url: str, body: bytes, folder: Path, *, authorization: str = AUTHORIZATION
) -> tuple[int, str]:
    """Post JSON with curl and return the HTTP status and the answer's body.

    The header goes in by a file, as a careful user would do it: command lines are public.
    """
    (folder / "body.json").write_bytes(body)
    (folder / "headers").write_text(f"Authorization: {authorization}\nContent-Type: {JSON}\n")
    command: list[str | Path] = [curl, "-sS", "-H", f"@{folder / 'headers'}"]
    command += ["--data-binary", f"@{folder / 'body.json'}", "-w", "\n%{http_code}", url]
    async with running(command) as program:
        code = await program.wait()
        assert code == 0, program.output
        return int(program.stdout[-1]), "\n".join(program.stdout[:-1])


async def _record_curl(curl: Path, folder: Path) -> AsyncIterator[Recording]:
    async with RawSink() as sink:
        body = json_body("metrics", NUMBERS)
        await send_with_curl(curl, sink.http_url + "/v1/metrics", body, folder)
        yield Recording.of("curl-json", sink.requests[0])


async def record(tool: Tool, curl: Path, folder: Path) -> dict[str, Recording]:
    """Run every real sender once against a sink and return the recordings by name."""
    recordings = {}
    for source in (
        _record_collector(tool, folder),
        _record_telemetrygen(tool),
        _record_sdk(),
        _record_curl(curl, folder),
    ):
        async for recording in source:
            recordings[recording.name] = recording
    return recordings


def main() -> None:
    """Write all recordings anew."""
    tools = build_all()
    curl = shutil.which("curl")
    assert curl is not None, "install curl first"
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        recordings = asyncio.run(record(tools.joinpath, Path(curl), Path(scratch)))
    for recording in recordings.values():
        recording.write(FOLDER)


if __name__ == "__main__":
    main()
