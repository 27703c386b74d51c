"""A real Collector that its client certificate names, over gRPC and HTTP, until it is revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.certificate_ids import ids_of
from gateway.config.client_identity import identity_settings
from gateway.config.identity_tree import ClientIdentityConfig
from gateway.settings import TlsServerSettings
from tests.interop.conftest import Tool
from tests.support.certs import Authority, Certificate
from tests.support.collector import running_collector
from tests.support.plane import running_worker, sink_backends
from tests.support.polling import until
from tests.support.sink import RawSink

RULE = {
    "san": "spiffe://example.org/ns/*/sa/*",
    "name": "$2",
    "headers": {"X-Scope-OrgID": "$1"},
}


async def test_a_collector_is_known_by_its_certificate_until_that_is_revoked(
    tool: Tool, authority: Authority, server_certificate: Certificate, tmp_path: Path
) -> None:
    otelcol = tool("otelcol")
    own = authority.issue("collector", ["spiffe://example.org/ns/shop/sa/otel"], is_client=True)
    identity = ClientIdentityConfig.model_validate({"rules": [RULE]})
    tls = TlsServerSettings(
        str(server_certificate.cert_file),
        str(server_certificate.key_file),
        str(authority.cert_file),
        identity=identity_settings(identity, frozenset()),
    )
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), tls=[tls]) as gateway,
    ):
        files = {
            "ca_file": str(authority.cert_file),
            "cert_file": str(own.cert_file),
            "key_file": str(own.key_file),
        }
        target: dict[str, Any] = {"tls": files, "sending_queue": {"enabled": False}}
        exporters = {
            "otlp": {"endpoint": f"localhost:{gateway.port}", **target},
            "otlphttp": {"endpoint": f"https://localhost:{gateway.port}", **target},
        }
        part = {"exporters": exporters}
        async with running_collector(otelcol, tmp_path, part, ["traces"]) as collector:
            await collector.send("traces", [1])
            requests = await sink.wait_for(2)
            assert {request.field("x-scope-orgid") for request in requests} == {"shop"}
            revoked = ids_of(own.der).own
            gateway.path.revocations.load([revoked], first=True, last=True)
            answer = await collector.try_to_send("traces", [2])
            assert answer.status != 200
            await until(lambda: collector.logged("was revoked") >= 1)
            assert len(sink.requests) == 2
            gateway.collect()
    assert {usage.key_id for usage in gateway.usage} == {"certificate:otel"}
