"""TLS on listeners and towards backends, with real clients."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog.testing
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from gateway import metrics
from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.dataplane.accept.handshake import TLS_FAILED, TLS_PLAIN_HTTP
from gateway.dataplane.worker import Worker, WorkerStartError
from gateway.model import BackendName
from gateway.settings import ListenerSettings, TlsClientSettings, TlsServerSettings
from tests.support.certs import Authority, Certificate
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, PROTOBUF
from tests.support.plane import (
    KEY,
    RunningWorker,
    backend,
    entry,
    limits,
    listening_socket,
    running_worker,
    settings,
    sink_backends,
)
from tests.support.polling import until
from tests.support.sink import RawSink

GET_LIVEZ = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
REFUSED = metrics.CONNECTIONS_REFUSED
FIELDS = (("content-type", PROTOBUF), ("authorization", f"StackState {KEY}"))
WAIT_S = 20


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture(name="certificate")
def _certificate(authority: Authority) -> Certificate:
    return authority.issue("server", ["localhost", "127.0.0.1"])


@pytest.fixture(name="tls")
def _tls(certificate: Certificate) -> TlsServerSettings:
    return TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))


async def talk(gateway: RunningWorker, context: ssl.SSLContext, data: bytes) -> bytes:
    """Send bytes over TLS; return all that comes back, nothing where no handshake succeeds."""
    async with asyncio.timeout(WAIT_S):
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", gateway.port, ssl=context, server_hostname="localhost"
            )
        except OSError:
            return b""
        writer.write(data)
        try:
            return await reader.read()
        except OSError:  # a TLS 1.3 client believes the handshake done before the server does
            return b""
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def get_livez(gateway: RunningWorker, context: ssl.SSLContext) -> Response:
    return await http1_request(gateway.port, "/livez", (), method="GET", tls=context)


async def test_a_grpc_client_is_served_over_tls(
    tls: TlsServerSettings, authority: Authority
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_file.read_bytes())
    async with running_worker(tls=[tls]) as gateway:
        target = f"localhost:{gateway.port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            stub: Any = HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_http_versions_pass_requests_on_over_tls(
    tls: TlsServerSettings, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with running_worker(keys=[entry(KEY)], backends=backends, tls=[tls]) as gateway:
            body = bytes(300_000)
            over_http1 = await http1_request(gateway.port, "/v1/traces", FIELDS, body, tls=context)
            assert over_http1.status == 200
            async with Http2Client(gateway.port, context) as client:
                assert (await client.request("/v1/traces", FIELDS, body)).status == 200
            requests = await sink.wait_for(2)
            assert [request.body for request in requests] == [body, body]


@pytest.mark.parametrize(
    "alpn,http2", [(["h2", "http/1.1"], True), (["http/1.1"], False), (["h2"], True)]
)
async def test_http2_is_preferred_where_a_client_offers_both(
    tls: TlsServerSettings, authority: Authority, alpn: list[str], http2: bool
) -> None:
    context = authority.client_context()
    context.set_alpn_protocols(alpn)
    async with running_worker(tls=[tls]) as gateway:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", gateway.port, ssl=context, server_hostname="localhost"
        )
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == ("h2" if http2 else "http/1.1")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_without_negotiation_the_first_bytes_decide(
    tls: TlsServerSettings, authority: Authority
) -> None:
    context = authority.client_context()
    async with running_worker(tls=[tls]) as gateway:
        assert (await talk(gateway, context, GET_LIVEZ)).startswith(b"HTTP/1.1 200 OK")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        bad_frame = b"\0\0\0\x00\0\0\0\0\0"  # DATA on stream 0: answered with GOAWAY and the end
        answer = await talk(gateway, context, preface + bad_frame)
        assert answer[3] == 4  # SETTINGS


async def test_a_client_that_negotiates_nothing_we_speak_is_told_apart_by_its_bytes(
    tls: TlsServerSettings, authority: Authority
) -> None:
    context = authority.client_context()
    context.set_alpn_protocols(["http/1.0"])
    async with running_worker(tls=[tls]) as gateway:
        assert (await talk(gateway, context, GET_LIVEZ)).startswith(b"HTTP/1.1 200 OK")


async def test_versions_below_the_minimum_are_refused_and_counted(
    certificate: Certificate, authority: Authority
) -> None:
    strict = TlsServerSettings(
        str(certificate.cert_file), str(certificate.key_file), min_version="1.3"
    )
    old = authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with structlog.testing.capture_logs() as logs:
        async with running_worker(tls=[strict]) as gateway:
            assert await talk(gateway, old, GET_LIVEZ) == b""
            await until(lambda: gateway.counted(REFUSED) == {("tls_handshake",): 1})
            assert (await get_livez(gateway, authority.client_context())).status == 200
    (warning,) = [event for event in logs if event["log_level"] == "warning"]
    assert warning["event"] == TLS_FAILED
    assert warning["peer"].startswith("127.0.0.1:")
    assert warning["detail"] == "UNSUPPORTED_PROTOCOL"


async def test_a_client_certificate_is_demanded_where_configured(
    certificate: Certificate, authority: Authority
) -> None:
    mutual = TlsServerSettings(
        str(certificate.cert_file), str(certificate.key_file), str(authority.cert_file)
    )
    own = authority.issue("sender")
    async with running_worker(tls=[mutual]) as gateway:
        assert (await get_livez(gateway, authority.client_context(own))).status == 200
        assert await talk(gateway, authority.client_context(), GET_LIVEZ) == b""
        await until(lambda: gateway.counted(REFUSED) == {("tls_handshake",): 1})


@pytest.mark.parametrize(
    "sent",
    [
        GET_LIVEZ,
        b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000),
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda sent: sent[:4].decode(),
)
async def test_plain_http_to_a_tls_listener_is_told_so_and_logged_with_what_to_do(
    tls: TlsServerSettings, sent: bytes
) -> None:
    """Also a client that sends its whole body before it reads."""
    with structlog.testing.capture_logs() as logs:
        async with running_worker(tls=[tls]) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(sent)
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(), WAIT_S)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"connection: close\r\n" in answer
            assert b"this port speaks TLS" in answer
            await until(lambda: gateway.counted(REFUSED) == {("tls_handshake",): 1})
    (warning,) = [event for event in logs if event["log_level"] == "warning"]
    assert warning["event"] == TLS_PLAIN_HTTP


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"])
async def test_a_handshake_that_is_not_finished_in_time_is_ended(
    tls: TlsServerSettings, sent: bytes
) -> None:
    async with running_worker(tls=[tls], limits=limits(header_timeout_s=0.2)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), WAIT_S)
        writer.close()
        await until(lambda: gateway.counted(REFUSED) == {("tls_handshake",): 1})
        assert gateway.worker.connections == 0


async def test_a_handshake_that_is_broken_off_counts_and_a_mere_connect_does_not(
    tls: TlsServerSettings,
) -> None:
    async with running_worker(tls=[tls]) as gateway:
        for sent, expected in ((b"", {}), (b"\x16\x03\x01\x02", {("tls_handshake",): 1})):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(sent)
                await until(lambda: gateway.worker.connections == 1)
            await until(lambda: gateway.worker.connections == 0)
            assert gateway.counted(REFUSED) == expected


async def test_beyond_the_connection_limit_tls_is_closed_without_a_handshake(
    tls: TlsServerSettings, authority: Authority
) -> None:
    async with running_worker(tls=[tls], limits=limits(max_connections=1)) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port)):
            await until(lambda: gateway.worker.connections == 1)
            assert await talk(gateway, authority.client_context(), GET_LIVEZ) == b""
            assert gateway.counted(REFUSED) == {("limit",): 1}
        await until(lambda: gateway.worker.connections == 0)
        assert (await get_livez(gateway, authority.client_context())).status == 200


async def test_tls_begins_right_behind_a_proxy_header(
    tls: TlsServerSettings, authority: Authority
) -> None:
    networks = ("127.0.0.0/8",)
    async with running_worker(tls=[tls], proxy_protocol=True, trusted_networks=networks) as gateway:
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        sock.sendall(b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 4317\r\n")
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=authority.client_context(), server_hostname="localhost"
        )
        writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readline(), WAIT_S)
        gateway.collect()
        assert gateway.refusals[0].peer == "203.0.113.7:51234"
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_cleartext_and_tls_listeners_stand_side_by_side(
    tls: TlsServerSettings, authority: Authority
) -> None:
    async with running_worker(tls=[None, tls]) as gateway:
        cleartext, encrypted = gateway.ports
        assert (await http1_request(cleartext, "/livez", (), method="GET")).status == 200
        over_tls = await http1_request(
            encrypted, "/livez", (), method="GET", tls=authority.client_context()
        )
        assert over_tls.status == 200


async def test_an_idle_tls_connection_does_not_hold_up_a_drain(
    tls: TlsServerSettings, authority: Authority
) -> None:
    context = authority.client_context()
    async with running_worker(tls=[tls]) as gateway, Http2Client(gateway.port, context) as client:
        assert (await client.request("/livez", (), method="GET")).status == 200
        await asyncio.wait_for(gateway.worker.stop(60), WAIT_S)
        assert gateway.worker.connections == 0


# Towards backends


def tls_backends(sink: RawSink, host: str, client: TlsClientSettings) -> list[Any]:
    return [
        backend(BackendName.OTLP_GRPC, f"https://{host}:{sink.grpc_port}", tls=client),
        backend(BackendName.OTLP_HTTP, f"https://{host}:{sink.http_port}", tls=client),
    ]


async def send_both(gateway: RunningWorker) -> list[int | None]:
    """Send a request over gRPC and one over HTTP; return their codes."""
    grpc_fields = (("content-type", GRPC), ("te", "trailers"), FIELDS[1])
    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    async with Http2Client(gateway.port) as client:
        over_grpc = await client.request(path, grpc_fields, b"\0\0\0\0\x01x")
    over_http = await http1_request(gateway.port, "/v1/traces", FIELDS, b"x")
    return [over_grpc.grpc_status, over_http.status]


async def test_backends_are_reached_over_tls(
    certificate: Certificate, authority: Authority
) -> None:
    client = TlsClientSettings(ca_file=str(authority.cert_file))
    async with RawSink(tls=certificate.server_context()) as sink:
        backends = tls_backends(sink, "localhost", client)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            assert await send_both(gateway) == [0, 200]
            await sink.wait_for(2)


async def test_a_backend_is_shown_our_certificate(
    certificate: Certificate, authority: Authority
) -> None:
    own = authority.issue("gateway")
    client = TlsClientSettings(
        ca_file=str(authority.cert_file), cert_file=str(own.cert_file), key_file=str(own.key_file)
    )
    async with RawSink(tls=certificate.server_context(authority.cert_file)) as sink:
        backends = tls_backends(sink, "localhost", client)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            assert await send_both(gateway) == [0, 200]


async def test_a_backend_may_go_by_another_name_than_its_urls(authority: Authority) -> None:
    named = authority.issue("named", ["backend.internal"])
    client = TlsClientSettings(ca_file=str(authority.cert_file), server_name="backend.internal")
    async with RawSink(tls=named.server_context()) as sink:
        backends = tls_backends(sink, "127.0.0.1", client)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            assert await send_both(gateway) == [0, 200]


async def test_a_backend_that_is_not_verified_is_unreachable_and_no_data_is_lost(
    certificate: Certificate, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign")
    client = TlsClientSettings(ca_file=str(foreign.cert_file))
    async with RawSink(tls=certificate.server_context()) as sink:
        backends = tls_backends(sink, "localhost", client)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            assert await send_both(gateway) == [14, 503]
            assert sink.requests == []
            sink.take_faults()


async def test_verification_can_be_switched_off(certificate: Certificate) -> None:
    client = TlsClientSettings(insecure_skip_verify=True)
    async with RawSink(tls=certificate.server_context()) as sink:
        backends = tls_backends(sink, "127.0.0.1", client)
        async with running_worker(keys=[entry(KEY)], backends=backends) as gateway:
            assert await send_both(gateway) == [0, 200]


async def test_a_worker_with_an_unreadable_certificate_does_not_start() -> None:
    sock = listening_socket()
    listener = ListenerSettings(
        sock.detach(), "127.0.0.1:1", TlsServerSettings("/nowhere.crt", "/nowhere.key")
    )
    counts = ConnectionCounts(1)
    with pytest.raises(WorkerStartError, match=r"cannot listen on 127\.0\.0\.1:1: .*nowhere\.crt"):
        Worker(settings([listener], os.dup(counts.fd)))
    counts.close()
    os.close(listener.fd)
