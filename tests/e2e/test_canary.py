"""Keys that pass through the installed gateway in every way there is, and are found nowhere
afterwards: not in its output at log level debug, its metrics, its admin answers, its error bodies.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
import pytest

from tests.support.certs import Authority
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, PROTOBUF, Answer, Break, GrpcMessage
from tests.support.polling import until
from tests.support.process import COMMAND, Gateway, running, running_gateway
from tests.support.raw_http1 import raw_client
from tests.support.sink import RawSink

STATIC: Final = "canary-static-6b1f08d2c9+/"
"""Accepted from the configuration."""
ADOPTED: Final = "canary-adopted-50c7e3a914+/"
"""Accepted from the store."""
DELETED: Final = "canary-deleted-9d20b7f3e8+/"
UNKNOWN: Final = "canary-unknown-e41a96c05b+/"
GATEWAYS: Final = "canary-gateway-77f2d80b1c"
"""What the backend gets."""
TOKEN: Final = "canary-token-2c9d66e1a07b45f3"
"""What the admin API takes."""
KEYS: Final = (STATIC, ADOPTED, DELETED, UNKNOWN)

GRPC_PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()

Fields = tuple[tuple[str, str], ...]


def _forms(secret: str) -> set[str]:
    """The ways in which a secret, or the middle of it, could be written down."""
    raw = secret.encode()
    return {
        secret.rsplit("-", maxsplit=1)[-1][:10],
        quote(secret, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        raw.hex(),
        hashlib.sha256(raw).hexdigest(),
    }


FORBIDDEN: Final = frozenset().union(*map(_forms, (*KEYS, GATEWAYS, TOKEN)))


def _found_in(text: str) -> list[str]:
    return [form for form in FORBIDDEN if form in text]


def _carriers(key: str) -> Sequence[Fields]:
    """Every way to present a key, good and bad."""
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    return (
        (("authorization", f"StackState {key}"),),
        (("authorization", f"susEOBSERVABILITY    {key}"),),
        (("authorization", f"SUSE-Observability {key}"),),
        (("sts-api-key", key),),
        (("authorization", f"StackState {key}"), ("sts-api-key", key)),
        (("authorization", f"StackState {key}"), ("sts-api-key", f"{key}-other")),
        (("authorization", f"StackState {key}"), ("authorization", f"StackState {key}")),
        (("authorization", f"Bearer {key}"),),
        (("authorization", f"Basic {basic}"),),
        (("authorization", f"StackState%20{key}"),),
        (("authorization", key),),
        (("authorization", f"StackState {key} {key}"),),
        (("authorization", f"StackState {key}\x7f"),),
        (("authorization", "StackState " + key * 30),),
        (("dd-api-key", key),),
        (("x-api-key", key),),
        (("cookie", f"key={key}"), ("x-unknown", key)),
        ((f"x-{key[:20]}", "1"), ("authorization", f"StackState {key}")),
    )


def _paths(key: str) -> Sequence[str]:
    """Every kind of path, some with the key in them."""
    return (
        "/v1/traces",
        f"/v1/traces?api_key={quote(key, safe='')}",
        f"/stsAgent/intake/?api_key={quote(key, safe='')}",
        "/stsAgent/api/v1/series",
        "/api/v1/validate",
        f"/{key[:24]}",
        f"/v1/{key[:24]}/traces",
    )


class Canaries:
    """Sends canaries and collects whatever comes back."""

    def __init__(self, gateway: Gateway, tls: ssl.SSLContext) -> None:
        self.gateway = gateway
        self.tls = tls
        self.heard: list[str] = []

    def hear(self, response: Response) -> Response:
        """Note an answer."""
        self.heard.append(repr(response))
        self.heard.append(response.body.decode("latin-1"))
        return response

    async def http1(self, key: str) -> set[int]:
        """Send by every carrier and path, with protobuf and JSON."""
        seen = set()
        for fields in _carriers(key):
            for path in _paths(key):
                kind = PROTOBUF if len(fields) == 1 else JSON
                head = (("content-type", kind), ("content-length", "2"), *fields)
                answer = await http1_request(self.gateway.port, path, head, b"{}")
                seen.add(self.hear(answer).status)
        for method in ("GET", "PUT", "BREW"):
            head = (("authorization", f"StackState {key}"), ("content-length", "0"))
            self.hear(await http1_request(self.gateway.port, "/v1/logs", head, method=method))
        return seen

    async def http2(self, key: str) -> set[int | None]:
        """Send over gRPC and as Go's clients send HTTP, with and without TLS."""
        port = self.gateway.tls_port
        assert port is not None
        seen: set[int | None] = set()
        for where, tls in ((self.gateway.port, None), (port, self.tls)):
            for fields in _carriers(key)[: None if tls is None else 6]:
                async with Http2Client(where, tls) as client:
                    head = (("content-type", GRPC), ("te", "trailers"), *fields)
                    response = await client.request(GRPC_PATH, head, MESSAGE)
                    seen.add(self.hear(response).grpc_status)
                async with Http2Client(where, tls) as client:
                    head = (("content-type", PROTOBUF), *fields)
                    self.hear(await client.request("/v1/metrics", head, b"\x0a\x00"))
        return seen

    async def malformed(self, key: str) -> None:
        """Send what is no request, with the key in it."""
        for line in (
            f"POST /v1/traces {key}\r\n\r\n",
            f"{key} /v1/traces HTTP/1.1\r\n\r\n",
            f"POST {key} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nAuthorization StackState {key}\r\n\r\n",
            f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nAuthorization: StackState {key}\x01\r\n\r\n",
            f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: {key}\r\n\r\n",
            f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{key * 3}",
            key * 2_000,
        ):
            async with raw_client(self.gateway.port) as peer:
                await peer.send(line.encode("latin-1"))
                peer.finish_sending()
                self.heard.append((await peer.read_to_end()).decode("latin-1"))

    async def admin(self) -> None:
        """Ask the admin API for all that it shows, and give it what it must refuse."""
        head = {"X-API-Token": TOKEN}
        url = self.gateway.admin_url
        keys = "/api/security/ingestion/api_keys"
        authorize = "/api/security/ingestion/authorize"
        async with aiohttp.ClientSession() as session:

            async def ask(method: str, path: str, document: object = None, **fields: str) -> int:
                async with session.request(
                    method, url + path, json=document, headers=fields
                ) as response:
                    self.heard.append(repr(response.headers) + await response.text())
                    return response.status

            for path in ("/metrics", "/livez", "/readyz"):
                assert await ask("GET", path) == 200
            assert await ask("GET", "/-/config", **head) == 200
            assert await ask("GET", keys, **head) == 200
            assert await ask("GET", "/-/config", **{"X-API-Token": UNKNOWN}) == 401
            assert await ask("GET", f"/{UNKNOWN}", **head) == 404
            assert await ask("POST", authorize, {"apiKey": UNKNOWN}) == 403
            assert await ask("POST", authorize, {"apiKey": ADOPTED}) == 204
            assert await ask("POST", authorize, {"apiKey": [ADOPTED]}) >= 400
            assert await ask("POST", keys, {"name": [UNKNOWN]}, **head) >= 400


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "adopted").write_text(ADOPTED)
    (tmp_path / "deleted").write_text(DELETED)
    return tmp_path


@asynccontextmanager
async def _serving(folder: Path, sink: RawSink, policy: str) -> AsyncIterator[Canaries]:
    authority = Authority.create(folder)
    backends = {
        "otlp_grpc": {"urls": [sink.grpc_url]},
        "otlp_http": {"urls": [sink.http_url]},
        "intake": {"urls": [sink.http_url]},
    }
    overrides = {
        "backends": backends,
        "auth": {"receiver_keys": [{"name": "static", "key": STATIC}]},
        "forward": {"key": policy, "gateway_key": GATEWAYS, "identity_headers": True},
        "admin": {"tokens": [TOKEN]},
        "log": {"level": "debug", "format": "json"},
    }
    certificate = authority.issue("server", ["localhost"])
    async with running_gateway(folder, overrides, tls=certificate) as gateway:
        yield Canaries(gateway, authority.client_context())
    everything = gateway.program.output
    assert '"event"' in everything
    assert _found_in(everything) == []


async def _keys(gateway: Gateway, *arguments: str | Path) -> str:
    command = [COMMAND, "keys", *arguments, "--config", gateway.config_file]
    async with running(command) as program:
        assert await program.wait() == 0, program.output
        return program.output


WHIMS: Final = (
    Answer(),
    Answer(401, 16),
    Answer(403, 7),
    Answer(404, 12),
    Answer(500, 13),
    Answer(breaks=Break("reset")),
    Answer(breaks=Break("close", "half")),
)
"""The backend's answers in turn: success, its own refusals, errors, and what breaks off."""


@pytest.mark.parametrize("policy", ["client", "gateway"])
async def test_a_key_is_found_nowhere(folder: Path, policy: str) -> None:
    """Whatever becomes of its request."""
    whims = itertools.cycle(WHIMS)
    async with RawSink(lambda _: next(whims)) as sink:
        sink.aborts_are_faults = False
        async with _serving(folder, sink, policy) as canaries:
            gateway = canaries.gateway
            create = ("create", "--name", "a", "--key-file")
            heard = [await _keys(gateway, *create, folder / "deleted")]
            listed = await _keys(gateway, "list", "--output", "json")
            (found,) = json.loads(listed)["ingestion-api-keys"]
            heard += [
                await _keys(gateway, *create, folder / "adopted"),
                await _keys(gateway, "delete", "--id", str(found["id"])),
                await _keys(gateway, "list"),
                listed,
            ]
            statuses = set()
            codes = set()
            for key in KEYS if policy == "client" else (STATIC, UNKNOWN):
                statuses |= await canaries.http1(key)
                codes |= await canaries.http2(key)
                await canaries.malformed(key)
            assert {200, 401, 403, 404, 503} <= statuses
            assert {0, 14, 16} <= codes
            assert _found_in(repr(sink.requests))  # there it is, so it could be anywhere
            await canaries.admin()
            await until(lambda: "key_unknown" in gateway.program.output, "a refusal in the log")
            assert _found_in("\n".join(heard + canaries.heard)) == []
        sink.take_faults()
