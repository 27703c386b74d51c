"""Real clients of the agents' intake against the installed command.

The Python client of the agents' API, a Prometheus that writes remotely, and `curl` as the product's
documentation has it.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import cramjam
import datadog
import pytest
import yaml

from tests.interop.fleet import counted, until_counted
from tests.support.exchange import Answer, Request
from tests.support.process import KEY, Gateway, Program, free_ports, running, running_gateway
from tests.support.sink import RawSink

BASE: Final = "/receiver/stsAgent"
ACCEPTED: Final = Answer(
    202, body=b'{"status":"ok"}', fields=(("content-type", "application/json"),)
)


@asynccontextmanager
async def gateway_of(folder: Path, sink: RawSink, **more: Any) -> AsyncIterator[Gateway]:
    """Run the installed gateway; its log must never show the key."""
    whole = {"backends": {"intake": {"urls": [sink.http_url]}}, **more}
    async with running_gateway(folder, whole) as gateway:
        yield gateway
        _, metrics = await gateway.get("/metrics")
    assert KEY not in gateway.program.output + metrics


@pytest.fixture(name="client")
def _client(monkeypatch: pytest.MonkeyPatch) -> Callable[[Gateway, str], None]:
    """Return a function that gives the Python client an address and a key."""

    def initialize(gateway: Gateway, key: str) -> None:
        datadog.initialize(
            api_key=key,
            app_key="none",
            api_host=f"http://127.0.0.1:{gateway.port}{BASE}",
            host_name="a-host",
            mute=False,
        )

    monkeypatch.setattr(datadog.api, "_max_retries", 0, raising=False)
    return initialize


Call = Callable[[], Any]
API: Final[Any] = datadog.api


def _metrics() -> Any:
    series = [{"metric": f"shop.{n}", "points": [(1, n)]} for n in range(3)]
    return API.Metric.send(series)


def _many_metrics() -> Any:
    """The client compresses what is long."""
    series = [{"metric": f"shop.{n}", "points": [(1, n)]} for n in range(2_000)]
    return API.Metric.send(series, compress_payload=True)


def _check() -> Any:
    return API.ServiceCheck.check(check="shop.ok", host_name="a-host", status=0)


def _event() -> Any:
    return API.Event.create(title="deployed", text="shop 1.2")


def _body(request: Request) -> Any:
    data = request.body
    if request.field("content-encoding") == "deflate":
        data = zlib.decompress(data)
    return json.loads(data)


@pytest.mark.parametrize(
    "call, path, route",
    [
        (_metrics, "/stsAgent/api/v1/series", "series"),
        (_many_metrics, "/stsAgent/api/v1/series", "series"),
        (_check, "/stsAgent/api/v1/check_run", "checks"),
        (_event, "/stsAgent/api/v1/events", "events"),
    ],
)
async def test_the_python_clients_submissions_arrive(
    tmp_path: Path, client: Callable[[Gateway, str], None], call: Call, path: str, route: str
) -> None:
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_of(tmp_path, sink) as gateway:
        client(gateway, KEY)
        assert await asyncio.to_thread(call) == {"status": "ok"}
        (request,) = sink.requests
        assert request.path.partition("?")[0] == path
        assert "shop" in json.dumps(_body(request))
        await until_counted(gateway, "gateway_intake_requests_total", route=route)


@pytest.mark.parametrize("call", [_metrics, _check, _event])
async def test_the_python_client_is_told_of_a_wrong_key(
    tmp_path: Path, client: Callable[[Gateway, str], None], call: Call
) -> None:
    async with RawSink() as sink, gateway_of(tmp_path, sink) as gateway:
        client(gateway, "nobody-knows-it")
        with pytest.raises(API.exceptions.ApiError) as caught:
            await asyncio.to_thread(call)
        assert "the API key is unknown" in str(caught.value)
        assert not sink.requests


@asynccontextmanager
async def prometheus_writing(
    binary: Path, folder: Path, gateway: Gateway, credential: dict[str, Any]
) -> AsyncIterator[Program]:
    """Run a Prometheus that scrapes itself each second and writes to the gateway."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    target = f"http://127.0.0.1:{gateway.port}/receiver/prometheus/api/v1/write"
    queue = {"batch_send_deadline": "1s", "min_backoff": "30ms", "max_backoff": "300ms"}
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "self", "static_configs": [{"targets": [address]}]}],
        "remote_write": [{"url": target, "queue_config": queue, **credential}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = (
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    )
    async with running(command) as program:
        await program.wait_line("Server is ready")
        yield program


def _series_of(request: Request) -> bytes:
    return bytes(cramjam.snappy.decompress_raw(request.body))


@pytest.mark.parametrize(
    "credential",
    [
        # Debian's build leaves out what `headers` of remote_write names.
        {"basic_auth": {"username": "apikey", "password": KEY}},
        {"authorization": {"type": "ApiKey", "credentials": KEY}},
    ],
    ids=["basic", "authorization"],
)
async def test_a_prometheus_writes_remotely_and_goes_on_after_an_outage(
    prometheus: Path, tmp_path: Path, credential: dict[str, Any]
) -> None:
    """While the receiver is away the gateway says 503, and Prometheus sends the same again."""
    answers = [Answer(503), Answer(503)]
    async with RawSink() as sink, gateway_of(tmp_path, sink) as gateway:
        sink.script = lambda _: answers.pop() if answers else Answer(204, body=b"")
        async with prometheus_writing(prometheus, tmp_path, gateway, credential):
            requests = await sink.wait_for(4)
        assert {request.path for request in requests} == {"/prometheus/api/v1/write"}
        first = requests[0]
        assert first.field("content-encoding") == "snappy"
        assert first.field("x-prometheus-remote-write-version") == "0.1.0"
        # What was refused for now has come again, byte for byte.
        assert sum(request.sha256 == first.sha256 for request in requests) >= 2
        assert any(b"prometheus_build_info" in _series_of(each) for each in requests)
        await until_counted(
            gateway, "gateway_intake_agents_total", sender="prometheus", version="2.42.0"
        )


async def test_a_prometheus_with_a_wrong_key_shows_what_the_gateway_says(
    prometheus: Path, tmp_path: Path
) -> None:
    credential = {"basic_auth": {"username": "apikey", "password": "nobody-knows-it"}}
    async with RawSink() as sink, gateway_of(tmp_path, sink) as gateway:
        async with prometheus_writing(prometheus, tmp_path, gateway, credential) as program:
            line = await program.wait_line("non-recoverable error")
            assert "403" in line.string
            assert "the API key is unknown" in line.string
        assert not sink.requests


HEALTH: Final = {
    "collection_timestamp": 1_548_857_167,
    "internalHostname": "local.test",
    "health": [
        {
            "consistency_model": "REPEATABLE_SNAPSHOTS",
            "expiry": {"repeat_interval_s": 60},
            "stream": {"urn": "urn:health:mySource:myStream"},
            "check_states": [],
        }
    ],
}
TOPOLOGY: Final = {
    "apiKey": "your api key",
    "collection_timestamp": 1_467_037_580.595086,
    "internalHostname": "lnx-343242.srv.stackstate.com",
    "topologies": [
        {
            "start_snapshot": False,
            "instance": {"type": "mesos", "url": "http://localhost:5050"},
            "components": [{"externalId": "nginx3.e5dda", "type": {"name": "docker"}, "data": {}}],
            "relations": [],
        }
    ],
}


@pytest.mark.parametrize("content", [HEALTH, TOPOLOGY], ids=["health", "topology"])
@pytest.mark.parametrize("carrier", ["query", "header"])
async def test_curl_posts_as_the_documentation_has_it(
    curl: Path, tmp_path: Path, content: object, carrier: str
) -> None:
    file = tmp_path / "content.json"
    file.write_text(json.dumps(content))
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_of(tmp_path, sink) as gateway:
        url = f"http://127.0.0.1:{gateway.port}{BASE}/intake"
        words: list[str | Path] = [curl, "-sS", "-o", "-", "-w", "\n%{http_code}", "-X", "POST"]
        words += ["-H", "Content-Type: application/json", "--data-ascii", f"@{file}"]
        if carrier == "query":
            words.append(f"{url}?api_key={KEY}")
        else:
            words += ["-H", f"sts-api-key: {KEY}", url]
        async with running(words) as program:
            assert await program.wait() == 0
            assert program.stdout == ['{"status":"ok"}', "202"]
        (request,) = sink.requests
        assert json.loads(request.body) == content
        assert await counted(gateway, "gateway_internal_errors_total") == 0


async def test_curl_without_a_key_reads_what_to_do(curl: Path, tmp_path: Path) -> None:
    async with RawSink() as sink, gateway_of(tmp_path, sink) as gateway:
        url = f"http://127.0.0.1:{gateway.port}{BASE}/intake"
        async with running([curl, "-sS", "--data-ascii", "{}", url]) as program:
            assert await program.wait() == 0
            assert "STS_API_KEY" in json.loads(program.output)["message"]
        assert not sink.requests
