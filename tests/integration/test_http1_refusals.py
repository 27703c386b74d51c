"""Refusals over HTTP/1.1 whose body is still coming: the client must see them, never a reset."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.dataplane.accept.tls_shared import HANDSHAKE_BYTES
from gateway.dataplane.core.lingering import LingeringSocket
from gateway.model import BackendName
from gateway.settings import TlsServerSettings
from tests.support.certs import Authority
from tests.support.plane import KEY, RunningWorker, backend, entry, limits, running_worker
from tests.support.raw_http1 import BrokenOffError, RawPeer, raw_client

KIB = 1024
MIB = 1024 * 1024


def head(length: int | None, *lines: str) -> bytes:
    """Return the head of a request without a key; without a length its body is chunked."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join(
        ["POST /v1/traces HTTP/1.1", "Host: gateway", framing, *lines, "", ""]
    ).encode()


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture(name="gateway")
async def _gateway(authority: Authority) -> AsyncIterator[RunningWorker]:
    """A worker with a cleartext and a TLS listener, and a backend that is never reached."""
    certificate = authority.issue("server", ["localhost", "127.0.0.1"])
    tls = TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))
    async with running_worker(
        backends=[backend(BackendName.OTLP_HTTP, "http://127.0.0.1:9")],
        keys=[entry(KEY)],
        tls=[None, tls],
        sweeping=False,
        limits=limits(linger_bytes=64 * MIB, max_body_bytes=64 * MIB),
    ) as gateway:
        yield gateway


@pytest.fixture(name="client")
async def _client(gateway: RunningWorker) -> AsyncIterator[RawPeer]:
    async with raw_client(gateway.port) as client:
        yield client


def upload(
    port: int, tls: ssl.SSLContext | None, body: bytes, fields: dict[str, str]
) -> http.client.HTTPResponse:
    """Post as Python's http.client does: all of the body is written before the answer is read."""
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    connection.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
    if tls is not None:
        connection.sock = tls.wrap_socket(connection.sock, server_hostname="localhost")
    try:
        connection.request("POST", "/v1/traces", body, fields)
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer


@pytest.mark.parametrize("size", [2_460_000, 50_000_000])
@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_client_that_writes_its_whole_body_before_it_reads_sees_the_refusal(
    gateway: RunningWorker, authority: Authority, size: int, is_tls: bool, is_chunked: bool
) -> None:
    port = gateway.ports[1 if is_tls else 0]
    tls = authority.client_context() if is_tls else None
    fields = {"Content-Type": "application/x-protobuf"}
    body = bytes(size)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, gateway.context.budget.used)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    if is_chunked:
        parts = [body[at : at + MIB] for at in range(0, size, MIB)]
        fields["Transfer-Encoding"] = "chunked"
        body = b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts]) + b"0\r\n\r\n"
    answer = await asyncio.to_thread(upload, port, tls, body, fields)
    watching.cancel()
    assert answer.status == 401
    assert answer.getheader("www-authenticate") is not None
    assert answer.getheader("connection") == "close"
    assert most <= (HANDSHAKE_BYTES if is_tls else 0)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_small_refused_body_is_read_over_and_the_connection_kept(
    gateway: RunningWorker, authority: Authority, is_tls: bool
) -> None:
    tls = authority.client_context() if is_tls else None
    async with raw_client(gateway.ports[1 if is_tls else 0], tls) as client:
        for size in (1, 1_000, 64 * KIB):
            await client.send(head(size))
            answer = await client.receive_answer()
            assert (answer.start, answer.value("connection")) == ("401", None)
            await client.send(bytes(size))


async def test_a_refused_body_that_is_complete_keeps_the_connection(client: RawPeer) -> None:
    chunks = b"3\r\nabc\r\n0\r\n\r\n"
    await client.send(head(5) + b"hello" + head(None) + chunks + head(0))
    for _ in range(3):
        answer = await client.receive_answer()
        assert (answer.start, answer.value("connection")) == ("401", None)


@pytest.mark.parametrize("chunks", [b"3\r\nabc\r\n0\r\n", b"3\r\nabc\r\nx\r\n"])
async def test_a_refused_chunked_body_whose_end_is_not_known_ends_the_connection(
    client: RawPeer, chunks: bytes
) -> None:
    await client.send(head(None) + chunks)
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("401", "close")
    assert await client.read_to_end() == b""


async def test_a_long_refused_body_ends_the_connection_which_is_half_closed_and_read_on(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(head(10 * MIB) + bytes(MIB))
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("401", "close")
    assert await client.read_to_end() == b""
    await client.send(bytes(9 * MIB))
    assert gateway.worker.connections == 1
    client.finish_sending()
    await gateway.until(lambda: gateway.worker.connections == 0)


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("length", [10 * MIB, None])
async def test_of_a_connection_that_was_refused_only_its_socket_is_left(
    gateway: RunningWorker, authority: Authority, length: int | None, is_tls: bool
) -> None:
    tls = authority.client_context() if is_tls else None
    async with raw_client(gateway.ports[1 if is_tls else 0], tls) as client:
        await client.send(head(length) + b"5\r\nabcde\r\n")
        answer = await client.receive_answer()
        assert (answer.start, answer.value("connection")) == ("401", "close")
        assert [type(each) for each in gateway.context.connections] == [LingeringSocket]
        assert len(gateway.context.lingering) == 1
        assert gateway.worker.connections == 1
        assert len(gateway.path.acceptor._places) == 1
    await gateway.until(lambda: gateway.worker.connections == 0)
    assert len(gateway.path.acceptor._places) == 0


async def test_lingering_ends_when_too_much_has_come(
    gateway: RunningWorker, client: RawPeer
) -> None:
    async def flood() -> None:
        while True:
            await client.send(bytes(MIB))

    await client.send(head(1_000_000 * MIB))
    await client.receive_answer()
    with pytest.raises(ConnectionError):
        await flood()
    await gateway.until(lambda: gateway.worker.connections == 0)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_lingering_ends_when_it_has_lasted_too_long(
    gateway: RunningWorker, authority: Authority, is_tls: bool
) -> None:
    tls = authority.client_context() if is_tls else None
    async with raw_client(gateway.ports[1 if is_tls else 0], tls) as client:
        await client.send(head(10 * MIB))
        await client.receive_answer()
        gateway.sweep(29)
        assert gateway.worker.connections == 1
        gateway.sweep(31)
        await gateway.until(lambda: gateway.worker.connections == 0)


async def test_over_tls_too_the_connection_is_half_closed_and_read_on(
    gateway: RunningWorker, authority: Authority
) -> None:
    def send_on_after_the_end() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.ports[1]), timeout=60) as plain:
            client = authority.client_context().wrap_socket(plain, server_hostname="localhost")
            client.sendall(head(10 * MIB))
            answer = b""
            while part := client.recv(KIB):
                answer += part
            client.sendall(bytes(10 * MIB))
            client.unwrap().close()
        return answer

    answer = await asyncio.to_thread(send_on_after_the_end)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer
    await gateway.until(lambda: gateway.worker.connections == 0)


async def test_the_rest_of_a_small_refused_body_that_does_not_come_ends_the_connection(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(head(1_000))
    await client.receive_answer()
    gateway.sweep(29)
    assert gateway.worker.connections == 1
    gateway.sweep(31)
    with pytest.raises(BrokenOffError):
        await client.read_to_end()


async def test_a_declared_body_that_is_too_large_is_refused_from_the_head(client: RawPeer) -> None:
    request = head(
        64 * MIB + 1, f"Authorization: StackState {KEY}", "Content-Type: application/json"
    )
    await client.send(request)
    answer = await client.receive_answer()
    assert (answer.start, answer.value("content-type")) == ("413", "application/json")
    assert await client.read_to_end() == b""


async def test_a_refusal_is_in_the_requests_own_encoding(client: RawPeer) -> None:
    for content_type, expected in (
        ("application/x-protobuf", "application/x-protobuf"),
        ("Application/X-Protobuf; v=1", "application/x-protobuf"),
        ("application/json", "application/json"),
        ("text/plain", "application/json"),
    ):
        await client.send(head(0, f"Content-Type: {content_type}"))
        assert (await client.receive_answer()).value("content-type") == expected


async def test_while_a_drain_is_under_way_a_refusal_ends_the_connection(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(head(0)[:20])
    await gateway.until(lambda: gateway.context.budget.used == 20)
    gateway.worker.start_drain()
    await client.send(head(0)[20:])
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("401", "close")
    assert await client.read_to_end() == b""
