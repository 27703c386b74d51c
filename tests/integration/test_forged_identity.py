"""What a sender says of itself reaches no backend: its identity, its tenant, its address."""

from __future__ import annotations

from typing import Any, Final

import pytest

from gateway.settings import ForwardSettings
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import GRPC, JSON, Fields, GrpcMessage, Request
from tests.support.intake_gateway import gateway_before
from tests.support.plane import KEY, entry, running_worker, sink_backends
from tests.support.sink import RawSink

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
FORGED: Final = (
    ("x-gateway-key-id", "forged"),
    ("x-gateway-key-id", "forged again"),
    ("X-Gateway_Key-Name", "forged"),
    ("X_GATEWAY_KEY_ID", "forged"),
    ("X-Scope-OrgID", "forged"),
    ("x_scope-orgid", "forged"),
    ("X-Tenant", "forged"),
    ("Forwarded", "for=forged"),
    ("X-Forwarded-For", "forged"),
    ("x_forwarded_host", "forged"),
    ("X-Forwarded-Client-Cert", "forged"),
    ("sts_api_key", "forged"),
)
OURS: Final = {
    "x-gateway-key-id": ["7"],
    "x-gateway-key-name": ["agent"],
    "x-forwarded-for": ["127.0.0.1"],
    "forwarded": ["for=127.0.0.1"],
}


def forward(key: Any = "none", **changes: Any) -> ForwardSettings:
    drop_headers = ("X-Scope-OrgID", "x_tenant")
    return ForwardSettings(
        key, None, "StackState", identity_headers=True, drop_headers=drop_headers, **changes
    )


def check_only_ours(request: Request, ours: dict[str, list[str]]) -> None:
    assert [value for _, value in request.fields if "forged" in value] == []
    assert {name: request.values(name) for name in OURS if request.values(name)} == ours


async def _send(port: int, way: str, *fields: tuple[str, str]) -> None:
    """Send one request that forges what it can."""
    keyed: Fields = (("authorization", f"StackState {KEY}"), *fields)
    if way == "h1":
        framing = (("content-type", JSON), ("Content-Length", "2"))
        await http1_request(port, "/v1/traces", (*keyed, *FORGED, *framing), b"{}")
        return
    lower = tuple((name.lower(), value) for name, value in FORGED)
    async with Http2Client(port) as client:
        if way == "grpc":
            head = (*keyed, *lower, ("content-type", GRPC), ("te", "trailers"))
            await client.request(EXPORT, head, MESSAGE)
        else:
            await client.request("/v1/traces", (*keyed, *lower, ("content-type", JSON)), b"{}")


@pytest.mark.parametrize("key", ["client", "none"])
@pytest.mark.parametrize("with_address", [False, True])
@pytest.mark.parametrize("way", ["h1", "h2", "grpc"])
async def test_no_spelling_of_an_identity_reaches_the_backend(
    way: str, with_address: bool, key: str
) -> None:
    async with (
        RawSink() as sink,
        running_worker(
            backends=sink_backends(sink),
            keys=[entry(KEY, "7", name="agent")],
            forward=forward(key, sender_address=with_address),
        ) as gateway,
    ):
        for _ in range(2):
            await _send(gateway.port, way)
        ours = OURS if with_address else {name: OURS[name] for name in list(OURS)[:2]}
        assert len(sink.requests) == 2
        for request in sink.requests:
            check_only_ours(request, ours)


async def test_the_receiver_gets_no_forged_identity_either() -> None:
    async with RawSink() as sink, gateway_before(sink, forward=forward("client")) as gateway:
        fields = (*FORGED, ("sts-api-key", KEY), ("Content-Length", "2"))
        await http1_request(gateway.port, "/intake", fields, b"{}")
        (request,) = sink.requests
        assert [value for _, value in request.fields if "forged" in value] == []
        assert request.field("sts-api-key") == KEY
