"""`gateway receive` and `gateway send` as installed commands; real senders against `receive`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from gateway.model import Signal
from gateway.otlp.encodings import ENCODINGS
from gateway.otlp.services import SERVICES
from tests.support.child import start_child
from tests.support.exchange import Answer
from tests.support.process import COMMAND, Program, free_ports, running
from tests.support.sdk import SDK_SIGNALS, SdkSender
from tests.support.sink import RawSink

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "iapikey-canary-of-receive-and-send"
KEY_DIGEST = hashlib.sha256(KEY.encode()).hexdigest()[:8]
ITEMS = {"traces": 3, "metrics": 3, "logs": 2, "profiles": 1}


class Receive:
    """A running `gateway receive --output json`, and its lines as they come."""

    def __init__(self, program: Program, grpc_port: int, http_port: int) -> None:
        self.program = program
        self.grpc_port = grpc_port
        self.http_port = http_port
        self._seen = 0

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Wait for the next records, and check that there are no more than `count`."""
        async with asyncio.timeout(30):
            while len(self.program.stdout) < self._seen + count:
                await asyncio.sleep(0.01)
        lines = self.program.stdout[self._seen :]
        self._seen += len(lines)
        assert len(lines) == count
        return [json.loads(line) for line in lines]


@pytest_asyncio.fixture(name="receive", scope="module", loop_scope="module")
async def _receive() -> AsyncIterator[Receive]:
    grpc_port, http_port = free_ports(2)
    addresses = ("--grpc", f"127.0.0.1:{grpc_port}", "--http", f"127.0.0.1:{http_port}")
    async with running([COMMAND, "receive", "--output", "json", *addresses]) as program:
        await program.wait_line("Receiving OTLP")
        yield Receive(program, grpc_port, http_port)
        assert await program.stop(signal.SIGINT) == 0
        assert KEY not in program.output


async def _send(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `gateway send` and return its exit code and all that it said."""
    environ = {**os.environ, **(env or {"GATEWAY_KEY": KEY})}
    async with running([COMMAND, "send", *arguments], env=environ) as program:
        code = await program.wait()
        assert KEY not in program.output
        return code, program.output


@pytest.mark.parametrize(
    "protocol, compression",
    [
        *(("grpc", encoding) for encoding in ENCODINGS),
        *(("http", encoding) for encoding in ENCODINGS),
        ("json", "gzip"),  # packed by what packs protobuf
    ],
)
async def test_every_signal_arrives_in_every_protocol_and_compression(
    receive: Receive, protocol: str, compression: str
) -> None:
    port = receive.grpc_port if protocol == "grpc" else receive.http_port
    code, output = await _send(
        "--endpoint",
        f"http://127.0.0.1:{port}",
        "--protocol",
        protocol,
        "--compression",
        compression,
        "--signal",
        "all",
    )
    assert code == 0, output
    records = {record["signal"]: record for record in await receive.take(4)}
    assert {name: record["items"] for name, record in records.items()} == ITEMS
    for record in records.values():
        assert record["services"] == ["gateway-send"]
        assert record["protocol"] == ("grpc" if protocol == "grpc" else "http")
        assert record["encoding"] == ("identity" if compression == "none" else compression)
        assert record["headers"]["authorization"] == f"StackState *** (sha256 {KEY_DIGEST})"
        assert record["error"] is None
    assert "4 of 4 requests accepted" in output


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
async def test_what_agents_send_arrives_on_any_address(receive: Receive, compression: str) -> None:
    endpoint = f"http://127.0.0.1:{receive.http_port}/receiver/stsAgent"
    arguments = ("--endpoint", endpoint, "--protocol", "intake", "--compression", compression)
    code, output = await _send(*arguments)
    assert code == 0, output
    topology, series = await receive.take(2)
    assert (topology["path"], series["path"]) == (
        "/receiver/stsAgent/intake",
        "/receiver/stsAgent/api/v1/series",
    )
    assert topology["summary"] == "3 components, 2 relations, 1 health"
    assert series["summary"] == "2 series"
    for record in (topology, series):
        assert (record["protocol"], record["signal"]) == ("intake", "intake")
        assert record["headers"]["sts-api-key"] == f"*** (sha256 {KEY_DIGEST})"
        assert record["error"] is None
    assert "2 of 2 requests accepted" in output


async def test_a_receiver_for_agents_alone_can_be_had() -> None:
    (port,) = free_ports(1)
    async with running([COMMAND, "receive", "--intake", f"127.0.0.1:{port}"]) as program:
        await program.wait_line(f"and agents on 127.0.0.1:{port}")
        endpoint = f"http://127.0.0.1:{port}/stsAgent"
        assert (await _send("--endpoint", endpoint, "--protocol", "intake"))[0] == 0
        await program.wait_line(r"intake  /stsAgent/api/v1/series  2 series  \d+ bytes identity")
        assert await program.stop(signal.SIGTERM) == 0


async def test_a_run_of_many_requests_is_summed_up(receive: Receive) -> None:
    endpoint = f"http://127.0.0.1:{receive.grpc_port}"
    code, output = await _send("--endpoint", endpoint, "--count", "25", "--signal", "logs")
    assert code == 0
    assert "25 of 25 requests accepted: 50 log records" in output
    assert output.count("[SUCCESS]") == 1
    assert len(await receive.take(25)) == 25


async def test_a_terminal_shows_progress_and_a_pipe_does_not(receive: Receive) -> None:
    terminal, its_end = os.openpty()
    endpoint = f"http://127.0.0.1:{receive.grpc_port}"
    sending = await start_child(
        *(COMMAND, "send", "--endpoint", endpoint, "--count", "3", "--key", "a"),
        stdout=asyncio.subprocess.PIPE,
        stderr=its_end,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": ""},
    )
    said, _ = await sending.communicate()
    os.close(its_end)
    progress = await asyncio.to_thread(os.read, terminal, 65536)
    os.close(terminal)
    assert sending.returncode == 0
    assert b"\r\x1b[K3 of 3 requests sent" in progress
    assert progress.endswith(b"\r\x1b[K")
    assert b"\x1b" not in said
    assert b"3 of 3 requests accepted" in said
    await receive.take(3)


async def test_the_key_is_read_from_a_file(receive: Receive, tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text(f"{KEY}\n")
    endpoint = f"http://127.0.0.1:{receive.http_port}"
    code, _ = await _send(
        "--endpoint", endpoint, "--protocol", "http", "--key-file", str(file), env={"x": "y"}
    )
    assert code == 0
    (record,) = await receive.take(1)
    assert record["headers"]["authorization"].endswith(f"{KEY_DIGEST})")


async def test_without_a_key_none_is_sent(receive: Receive) -> None:
    endpoint = f"http://127.0.0.1:{receive.grpc_port}"
    code, _ = await _send("--endpoint", endpoint, env={"GATEWAY_KEY": ""})
    assert code == 0
    (record,) = await receive.take(1)
    assert "authorization" not in record["headers"]


async def test_a_refused_request_is_told_with_exit_code_2() -> None:
    refusal = Answer(grpc_status=16, grpc_message="the API key is unknown")
    async with RawSink(lambda _request: refusal) as sink:
        code, output = await _send("--endpoint", sink.grpc_url, "--count", "3")
    assert code == 2
    assert len(sink.requests) == 3
    assert output.count("refused: UNAUTHENTICATED") == 1
    assert "the server says: the API key is unknown" in output
    assert "0 of 3 requests accepted" in output


async def test_nobody_listening_is_told_with_exit_code_3() -> None:
    (port,) = free_ports(1)
    code, output = await _send("--endpoint", f"http://127.0.0.1:{port}", "--signal", "all")
    assert code == 3
    assert "nothing is listening on" in output
    assert "0 of 4 requests accepted" in output
    assert "stopped after 1" in output


@pytest.mark.parametrize(
    "arguments, advice",
    [
        (["--endpoint", "localhost:4317"], "write http://localhost:4317"),
        (["--endpoint", "http://h", "--key-file", "none.txt"], "none.txt: No such file"),
        (["--endpoint", "http://h", "--key", "a b"], "visible ASCII"),
        (
            ["--endpoint", "http://h", "--key", "a", "--key-file", "b"],
            "use either --key or --key-file, not both",
        ),
        (["--endpoint", "http://h", "--scheme", "A B"], "one word"),
        (["--endpoint", "http://h", "--count", "0"], "--count"),
        (["--endpoint", "https://h", "--ca-file", "none.crt"], "--ca-file none.crt"),
        (["--endpoint", "https://h", "--client-key-file", "a.key"], "needs --client-cert-file"),
        (["--endpoint", "http://h/v1/traces", "--protocol", "http"], "remove '/v1/traces'"),
    ],
)
async def test_wrong_arguments_are_told_with_exit_code_1(arguments: list[str], advice: str) -> None:
    code, output = await _send(*arguments)
    assert code == 1
    assert advice in output


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_python_sdks_exporters_are_received(
    receive: Receive, protocol: str, compression: str
) -> None:
    port = receive.grpc_port if protocol == "grpc" else receive.http_port
    sender = SdkSender(protocol, port, f"StackState {KEY}", compression)  # type: ignore[arg-type] # as the parameters say
    for name in SDK_SIGNALS:
        assert await sender.send(name, range(5))
        (record,) = await receive.take(1)
        assert (record["signal"], record["items"]) == (name, 5)
        assert record["encoding"] == ("identity" if compression == "none" else compression)


async def test_grpcio_reads_the_receivers_refusal(receive: Receive) -> None:
    path = SERVICES[Signal.LOGS].grpc_path
    async with grpc.aio.insecure_channel(f"127.0.0.1:{receive.grpc_port}") as channel:
        export: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await export(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (record,) = await receive.take(1)
    assert record["answer"] == "INVALID_ARGUMENT"
    assert "protobuf" in record["error"]


async def test_lines_for_people_name_what_arrived() -> None:
    (port,) = free_ports(1)
    async with running([COMMAND, "receive", "--grpc", f"127.0.0.1:{port}"]) as program:
        await program.wait_line(f"Receiving OTLP/gRPC and OTLP/HTTP on 127.0.0.1:{port}")
        code, _ = await _send("--endpoint", f"http://127.0.0.1:{port}", "--compression", "zstd")
        assert code == 0
        await program.wait_line(r"traces  gateway-send  3 spans  \d+ bytes zstd  grpc")
        assert await program.stop(signal.SIGTERM) == 0


async def test_a_taken_port_is_told_with_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with running([COMMAND, "receive", "--http", address]) as program:
            assert await program.wait() == 1
    assert f"cannot listen on {address}: address already in use" in program.output


async def test_receive_ends_quietly_when_its_reader_is_gone() -> None:
    (port,) = free_ports(1)
    reader, writer = os.pipe()
    receiving = await start_child(
        COMMAND,
        "receive",
        "--grpc",
        f"127.0.0.1:{port}",
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        os.close(writer)
        assert receiving.stderr is not None
        await receiving.stderr.readuntil(b"Press Ctrl-C to stop.")
        os.close(reader)
        await _send("--endpoint", f"http://127.0.0.1:{port}")
        said = await receiving.stderr.read()
        assert await receiving.wait() == 0
        assert b"Traceback" not in said
        assert b"Exception" not in said
    finally:
        if receiving.returncode is None:
            receiving.kill()
            await receiving.wait()
