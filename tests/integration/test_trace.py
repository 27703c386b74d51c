"""Watching requests: what a worker takes down, what `POST /-/trace` and `gateway trace` show."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
import yaml

from gateway.channel import Traced, TracedRequest, Up, Watch
from gateway.dataplane.exchange.tracer import MAX_HELD
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import GRPC, GrpcMessage
from tests.support.plane import KEY, RunningWorker, entry, running_worker, sink_backends
from tests.support.process import COMMAND, Gateway, running, running_gateway
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = ("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01")
OTHER_KEY: Final = "another-key"
KEYS: Final = (entry(KEY, "1"), entry(OTHER_KEY, "2"))


class _Told:
    """What a worker has told control about its traces."""

    def __init__(self, gateway: RunningWorker) -> None:
        self.messages: list[Traced] = []
        gateway.send_to(self._take)

    def _take(self, message: Up) -> bool:
        assert isinstance(message, Traced)
        self.messages.append(message)
        return True

    def requests(self, watch: int = 1) -> list[TracedRequest]:
        return [
            request for told in self.messages if told.watch == watch for request in told.requests
        ]


async def _export(port: int, key: str = KEY, *fields: tuple[str, str]) -> None:
    head = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"StackState {key}"))
    async with Http2Client(port) as client:
        await client.request(PATH, (*head, *fields), MESSAGE)


async def _post(port: int, *fields: tuple[str, str]) -> None:
    await http1_request(port, "/v1/logs", (("host", "h"), ("content-length", "2"), *fields), b"{}")


async def test_a_watched_request_is_told_with_everything_that_became_of_it() -> None:
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        told = _Told(gateway)
        gateway.worker.watch([Watch(1)])
        assert told.messages == [Traced(1, [])]
        await _export(gateway.port, KEY, PARENT)
        gateway.worker.flush_traces()
        (request,) = told.requests()
        assert request.peer.startswith("127.0.0.1:")
        assert (request.protocol, request.signal, request.key_id) == ("grpc", "traces", "1")
        assert (request.outcome, request.result, request.code) == ("allowed", "accepted", "OK")
        assert (request.backend, request.backend_code) == (sink.grpc_url[len("http://") :], "OK")
        assert request.bytes == len(MESSAGE)
        assert request.trace_id == TRACE_ID
        assert request.duration_s > 0


async def test_a_refused_request_is_told_with_the_reason_and_without_a_backend() -> None:
    async with running_worker(keys=KEYS) as gateway:
        told = _Told(gateway)
        gateway.worker.watch([Watch(1)])
        await _export(gateway.port, "nobody-knows-it")
        await _post(gateway.port)
        gateway.worker.flush_traces()
        unknown, missing = told.requests()
        assert (unknown.outcome, unknown.result) == ("key_unknown", "denied")
        assert (unknown.code, unknown.key_id, unknown.backend) == ("UNAUTHENTICATED", "", "")
        assert (missing.outcome, missing.code, missing.signal) == ("key_missing", "401", "logs")


async def test_a_trace_sees_only_what_its_filters_match() -> None:
    watches = [
        Watch(1, key_id="2"),
        Watch(2, network="127.0.0.0/8"),
        Watch(3, network="10.0.0.0/8"),
        Watch(4, key_id="1", network="127.0.0.1/32"),
    ]
    async with running_worker(keys=KEYS) as gateway:
        told = _Told(gateway)
        gateway.worker.watch(watches)
        await _export(gateway.port, KEY)
        await _export(gateway.port, OTHER_KEY)
        gateway.worker.flush_traces()
        seen = {watch.number: [r.key_id for r in told.requests(watch.number)] for watch in watches}
        assert seen == {1: ["2"], 2: ["1", "2"], 3: [], 4: ["1"]}


async def test_lines_beyond_the_bound_are_counted_instead_of_held() -> None:
    async with running_worker(keys=KEYS) as gateway:
        told = _Told(gateway)
        gateway.worker.watch([Watch(1)])
        async with Http2Client(gateway.port) as client:
            for _ in range(MAX_HELD + 5):
                await client.request(PATH, (("content-type", GRPC),), MESSAGE)
        gateway.worker.flush_traces()
        lines, dropped = len(told.requests()), sum(each.dropped for each in told.messages)
        assert lines + dropped == MAX_HELD + 5
        assert all(len(each.requests) <= MAX_HELD for each in told.messages)


async def test_nothing_is_taken_down_once_nobody_watches() -> None:
    async with running_worker(keys=KEYS) as gateway:
        told = _Told(gateway)
        states = [gateway.path.services.is_tracing]
        for watches in ([Watch(1)], []):
            gateway.worker.watch(watches)
            states.append(gateway.path.services.is_tracing)
        assert states == [False, True, False]
        await _post(gateway.port)
        gateway.worker.flush_traces()
        assert told.requests() == []


@pytest.mark.parametrize(
    "parent",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01",
        f"{TRACE_ID}",
        "x" * 200,
    ],
)
async def test_what_is_no_traceparent_gives_no_trace_id(parent: str) -> None:
    async with running_worker(keys=KEYS) as gateway:
        told = _Told(gateway)
        gateway.worker.watch([Watch(1)])
        await _post(gateway.port, ("traceparent", parent))
        gateway.worker.flush_traces()
        assert [request.trace_id for request in told.requests()] == [""]


# The API, with real worker processes


@pytest_asyncio.fixture(scope="module", name="shared_gateway", loop_scope="module")
async def _shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path_factory.mktemp("gateway"), {}) as gateway:
        yield gateway


def _token(gateway: Gateway) -> str:
    return (gateway.config_file.parent / "state" / "admin-token").read_text().strip()


async def _lines(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    return [json.loads(await answer.content.readline()) for _ in range(count)]


async def test_the_api_streams_requests_of_all_workers_of_later_ones_too(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        head = {"X-API-Token": _token(gateway)}
        url = f"{gateway.admin_url}/-/trace?for=10m&peer=127.0.0.1"
        async with aiohttp.ClientSession(headers=head) as client, client.post(url) as answer:
            assert answer.status == 200
            assert await _lines(answer, 1) == [{"watching": True, "for_s": 600.0}]
            await asyncio.gather(*(_post(gateway.port) for _ in range(16)))
            lines = await _lines(answer, 16)
            assert {line["outcome"] for line in lines} == {"key_missing"}
            assert len({line["peer"] for line in lines}) == 16
            async with client.post(f"{gateway.admin_url}/-/reload") as reloaded:
                assert reloaded.status == 200
            await _post(gateway.port)
            assert (await _lines(answer, 1))[0]["code"] == "401"


@pytest.mark.parametrize(
    "query, word",
    [("peer=nowhere", "peer"), ("for=2h", "1h"), ("for=soon", "for"), ("key=1", "key_id")],
)
async def test_a_trace_that_cannot_be_is_refused_with_what_to_write(
    shared_gateway: Gateway, query: str, word: str
) -> None:
    head = {"X-API-Token": _token(shared_gateway)}
    url = f"{shared_gateway.admin_url}/-/trace?{query}"
    async with aiohttp.ClientSession(headers=head) as client, client.post(url) as answer:
        assert answer.status == 400
        assert word in (await answer.json())["error"]


async def test_a_trace_needs_a_token(shared_gateway: Gateway) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{shared_gateway.admin_url}/-/trace") as answer,
    ):
        assert answer.status == 401


async def test_the_command_prints_a_line_per_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        command: list[str | Path] = [
            COMMAND,
            "trace",
            "--config",
            gateway.config_file,
            "--for",
            "10m",
        ]
        async with running([*command, "--output", "json"]) as shown:
            while not shown.stdout:  # it begins at some time: then it shows all that follow
                await _post(gateway.port)
                await asyncio.sleep(0.05)
            assert json.loads(shown.stdout[0])["outcome"] == "key_missing"
            assert "Watching for 10m; Ctrl-C ends it." in shown.stderr
            assert await shown.stop(signal.SIGINT) == 0
            assert re.search(r"requests? in \d+s: \d+ denied \(key_missing\)$", shown.stderr[-1])
        async with running([*command, "--key-id", "static:test"]) as shown:
            while not shown.stdout:
                await _export(gateway.port, "not-the-key")
                await _export(gateway.port, _static_key(gateway))
                await asyncio.sleep(0.05)
            line = shown.stdout[0]
            assert "backend_unreachable UNAVAILABLE grpc/traces" in line
            assert "key static:test" in line


def _static_key(gateway: Gateway) -> str:
    return str(yaml.safe_load(gateway.config_file.read_text())["auth"]["receiver_keys"][0]["key"])


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (["--for", "soon"], 1, "--for"),
        (["--peer", "nowhere"], 1, "--peer"),
        (["--output", "xml"], 1, "--output"),
        (["--url", "ftp://x"], 1, "--url"),
        (["--token-file", "no-such-file"], 1, "--token-file"),
        (["--url", "http://127.0.0.1:1"], 3, "no response from"),
    ],
)
async def test_the_command_says_what_is_wrong(
    tmp_path: Path, arguments: list[str], code: int, word: str
) -> None:
    environment = {"GATEWAY_TOKEN": "a-token", "HOME": str(tmp_path)}
    async with running([COMMAND, "trace", *arguments], env=environment) as command:
        assert await command.wait() == code
        assert word in "\n".join(command.stderr)


async def test_the_command_says_that_its_token_was_refused(shared_gateway: Gateway) -> None:
    arguments: list[str | Path] = [COMMAND, "trace", "--url", shared_gateway.admin_url]
    async with running(arguments, env={"GATEWAY_TOKEN": "wrong"}) as command:
        assert await command.wait() == 2
        assert "401" in "\n".join(command.stderr)
