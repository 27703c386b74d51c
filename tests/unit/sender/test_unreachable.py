from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.model import Signal
from gateway.otlp.services import SERVICES
from gateway.receiver import Receiver
from gateway.sender.explain import Verdict
from gateway.sender.grpc_client import GrpcConnection
from gateway.sender.http_client import HttpConnection
from gateway.sender.run import send
from gateway.sender.target import Plan, SendProtocol, Tls, parse_endpoint
from gateway.sender.unreachable import Cause, UnreachableError, cause_of, probe
from tests.support.certs import Authority
from tests.support.sink import RawSink

GRPC, HTTP = SendProtocol.GRPC, SendProtocol.HTTP
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _plan(url: str, protocol: SendProtocol, tls: Tls | None = None, timeout_s: float = 10) -> Plan:
    return Plan(
        parse_endpoint(url, protocol),
        protocol,
        (Signal.TRACES,),
        timeout_s=timeout_s,
        tls=tls or Tls(),
    )


async def _cause(plan: Plan) -> Cause:
    """Try one request the way `send` does, and return why there was no answer."""
    connection: GrpcConnection | HttpConnection | None = None
    try:
        opening = GrpcConnection.open if plan.protocol is GRPC else HttpConnection.open
        connection = await opening(plan)
        await connection.export(SERVICES[Signal.TRACES], b"")
    except UnreachableError as error:
        return error.cause
    finally:
        if connection is not None:
            await connection.close()
    pytest.fail("there was an answer")


async def _explained(plan: Plan) -> str:
    """Send as the command does, and return what it says of the address."""
    attempts = [attempt async for attempt in send(plan)]
    assert attempts[0].explanation.verdict is Verdict.UNREACHABLE
    return attempts[0].explanation.headline.partition(" ")[2]


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@asynccontextmanager
async def _server(handler: Handler) -> AsyncIterator[str]:
    """Serve raw bytes on a free port; yields its host:port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


def _saying(reply: bytes) -> Handler:
    """ExportResponse whatever comes first with fixed bytes and hang up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply)
        await writer.drain()
        writer.close()

    return handle


@pytest.fixture(name="unused")
def _unused() -> str:
    """An address on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_nobody_listening_is_refused(protocol: SendProtocol, unused: str) -> None:
    port = unused.rpartition(":")[2]
    assert await _cause(_plan(f"http://{unused}", protocol)) is Cause.REFUSED
    assert await _cause(_plan(f"http://localhost:{port}", protocol)) is Cause.REFUSED


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_an_unknown_name_is_told(protocol: SendProtocol) -> None:
    assert await _cause(_plan("http://no-such-host.invalid", protocol)) is Cause.NO_SUCH_HOST


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_a_certificate_of_an_unknown_ca_is_told(
    protocol: SendProtocol, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    server = authority.issue("server", ["127.0.0.1"]).server_context()
    async with RawSink(tls=server) as sink:
        url = sink.grpc_url if protocol is GRPC else sink.http_url
        assert await _cause(_plan(url, protocol)) is Cause.UNKNOWN_CA
        sink.take_faults()


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_for_another_name_is_told(
    protocol: SendProtocol, host: str, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    server = authority.issue("server", ["elsewhere.test", "192.0.2.1"]).server_context()
    async with RawSink(tls=server) as sink:
        port = sink.grpc_port if protocol is GRPC else sink.http_port
        plan = _plan(f"https://{host}:{port}", protocol, Tls(authority.cert_file))
        assert await _cause(plan) is Cause.WRONG_NAME
        sink.take_faults()


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_a_wanted_client_certificate_is_told(protocol: SendProtocol, tmp_path: Path) -> None:
    """The server is a blocking one: asyncio's servers hang up without the alert that says why."""
    authority = Authority.create(tmp_path)
    context = authority.issue("server", ["127.0.0.1"]).server_context(authority.cert_file)
    context.set_alpn_protocols(["h2", "http/1.1"])

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        # Read on after the alert: hanging up over unread bytes would reset the connection.
        with accepted.dup() as raw:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(accepted, server_side=True)
            while raw.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        cause = await _cause(_plan(url, protocol, Tls(authority.cert_file)))
        await serving
    assert cause is Cause.CLIENT_CERTIFICATE


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_tls_to_a_cleartext_port_is_told(protocol: SendProtocol) -> None:
    async with _server(_saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        assert await _cause(_plan(f"https://{address}", protocol)) is Cause.NOT_TLS


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
async def test_tls_to_a_cleartext_port_that_hangs_up_is_told(protocol: SendProtocol) -> None:
    async def answer_only_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.read(3)) in {b"OPT", b"POS"}:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with _server(answer_only_http) as address:
        assert await _explained(_plan(f"https://{address}", protocol)) == "does not speak TLS"


async def test_a_tls_server_that_hangs_up_is_not_taken_for_cleartext(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    context = authority.issue("server", ["127.0.0.1"]).server_context()
    server = await asyncio.start_server(_hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plan = _plan(url, HTTP, Tls(authority.cert_file))
        assert await _explained(plan) == "closed the connection without a response"


async def test_tls_without_http2_is_told_to_grpc(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    context = authority.issue("server", ["127.0.0.1"]).server_context()
    context.set_alpn_protocols(["http/1.1"])
    server = await asyncio.start_server(_saying(b""), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        plan = _plan(f"https://127.0.0.1:{port}", GRPC, Tls(authority.cert_file))
        assert await _cause(plan) is Cause.NO_HTTP2


async def test_an_http1_server_is_told_to_grpc() -> None:
    async with _server(_saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        assert await _cause(_plan(f"http://{address}", GRPC)) is Cause.ONLY_HTTP1


@pytest.mark.parametrize("skipped", [True, False])
async def test_verification_can_be_skipped(tmp_path: Path, *, skipped: bool) -> None:
    authority = Authority.create(tmp_path)
    async with RawSink(tls=authority.issue("server", ["elsewhere.test"]).server_context()) as sink:
        tls = Tls(None if skipped else authority.cert_file, insecure_skip_verify=skipped)
        verdicts = [
            attempt.explanation.verdict async for attempt in send(_plan(sink.grpc_url, GRPC, tls))
        ]
        assert verdicts == [Verdict.ACCEPTED if skipped else Verdict.UNREACHABLE]
        sink.take_faults()


async def test_a_tls_port_is_recognised_by_asking_it(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    certificate = authority.issue("server", ["127.0.0.1"])
    for context in (
        certificate.server_context(),
        certificate.server_context(authority.cert_file),
    ):
        async with RawSink(tls=context) as sink:
            endpoint = parse_endpoint(sink.grpc_url, GRPC)
            assert await probe(endpoint, wants_http2=True) is Cause.NEEDS_TLS
            sink.take_faults()


async def test_cleartext_ports_are_recognised_by_asking_them() -> None:
    async with RawSink() as sink:
        grpc, http = parse_endpoint(sink.grpc_url, GRPC), parse_endpoint(sink.http_url, HTTP)
        assert await probe(grpc, wants_http2=False) is Cause.ONLY_HTTP2
        assert await probe(grpc, wants_http2=True) is Cause.BROKEN_OFF
        assert await probe(http, wants_http2=True) is Cause.ONLY_HTTP1
        assert await probe(http, wants_http2=False) is Cause.BROKEN_OFF
        sink.take_faults()


async def test_a_port_that_speaks_both_is_neither_too_old_nor_too_new() -> None:
    async with Receiver() as receiver:
        endpoint = parse_endpoint(f"http://{receiver.http_address}", HTTP)
        assert await probe(endpoint, wants_http2=True) is Cause.BROKEN_OFF
        assert await probe(endpoint, wants_http2=False) is Cause.BROKEN_OFF


async def test_a_port_that_speaks_something_else_is_recognised() -> None:
    async with _server(_saying(b"220 mail.test ESMTP\r\n")) as address:
        endpoint = parse_endpoint(f"http://{address}", HTTP)
        assert await probe(endpoint, wants_http2=False) is Cause.NOT_HTTP


async def test_a_port_that_is_gone_when_it_is_asked_is_not_http(unused: str) -> None:
    endpoint = parse_endpoint(f"http://{unused}", HTTP)
    assert await probe(endpoint, wants_http2=False) is Cause.NOT_HTTP


@pytest.mark.parametrize(
    "error, cause",
    [
        (OSError(errno.ENETUNREACH, "x"), Cause.NO_ROUTE),
        (OSError(errno.EHOSTUNREACH, "x"), Cause.NO_ROUTE),
        (TimeoutError(errno.ETIMEDOUT, "x"), Cause.CONNECT_TIMEOUT),
        (TimeoutError(), Cause.NO_ANSWER),
        (ConnectionResetError(errno.ECONNRESET, "x"), Cause.BROKEN_OFF),
        (ssl.SSLError(1, "odd"), Cause.TLS_OTHER),
        (ValueError("x"), Cause.BROKEN_OFF),
    ],
)
def test_library_errors_are_translated(error: Exception, cause: Cause) -> None:
    assert cause_of(error).cause is cause


def test_a_refused_connection_is_told_in_the_systems_words() -> None:
    error = OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")
    assert cause_of(error).detail == os.strerror(errno.ECONNREFUSED)
