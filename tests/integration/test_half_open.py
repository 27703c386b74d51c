"""TLS handshakes that clients leave unfinished, and clients that open many connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import metrics
from gateway.dataplane.accept.acceptor import HALF_OPEN_SHARE, MAX_OVER_LIMIT
from gateway.dataplane.accept.tls_shared import HANDSHAKE_BYTES
from gateway.settings import TlsServerSettings
from tests.support.certs import Authority
from tests.support.clients import Http2Client, http1_request
from tests.support.plane import RunningWorker, limits, running_worker
from tests.support.polling import until

REFUSED = metrics.CONNECTIONS_REFUSED
FLOOD = "127.0.0.2"
OTHER = "127.0.0.3"
PLACES = 4
"""Half-open handshakes that the smallest `limits.buffer_memory` has room for."""
SMALL = limits(buffer_memory_bytes=PLACES * HALF_OPEN_SHARE * HANDSHAKE_BYTES)
GET_LIVEZ = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
WAIT_S = 20


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture(name="tls")
def _tls(authority: Authority) -> TlsServerSettings:
    certificate = authority.issue("server", ["localhost", "127.0.0.1"])
    return TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))


@pytest.fixture(name="socks")
def _socks() -> Iterator[contextlib.ExitStack]:
    """Close at the end what is entered."""
    with contextlib.ExitStack() as stack:
        yield stack


def connect(stack: contextlib.ExitStack, gateway: RunningWorker, host: str) -> socket.socket:
    sock = stack.enter_context(
        socket.create_connection(("127.0.0.1", gateway.port), source_address=(host, 0))
    )
    sock.settimeout(0)
    return sock


def hello(authority: Authority) -> bytes:
    """Return a ClientHello."""
    outgoing = ssl.MemoryBIO()
    client = authority.client_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def ends(sock: socket.socket) -> bytes:
    """Read to the end, which may be a reset."""
    received = b""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
                received += data
    return received


async def until_turned_away(gateway: RunningWorker, count: int) -> None:
    await until(lambda: gateway.count(REFUSED, "half_open") == count)


async def is_served(gateway: RunningWorker, authority: Authority) -> bool:
    context = authority.client_context()
    answer = await http1_request(gateway.port, "/livez", (), method="GET", tls=context)
    return answer.status == 200


@pytest.mark.parametrize("length", [1, 4, 5, 100, -1])
async def test_a_part_of_a_client_hello_takes_no_memory_and_no_turn(
    tls: TlsServerSettings, authority: Authority, socks: contextlib.ExitStack, length: int
) -> None:
    async with running_worker(tls=[tls], limits=SMALL) as gateway:
        for _ in range(10 * PLACES):
            connect(socks, gateway, FLOOD).send(hello(authority)[:length])
        await until(lambda: gateway.worker.connections == 10 * PLACES)
        assert await is_served(gateway, authority)
        assert gateway.context.budget.used == 0
        assert gateway.counted(REFUSED) == {}


async def test_a_client_hello_may_come_byte_by_byte(
    tls: TlsServerSettings, authority: Authority, socks: contextlib.ExitStack
) -> None:
    async with running_worker(tls=[tls]) as gateway:
        sock = connect(socks, gateway, OTHER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello(authority):
            sock.send(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            record = await asyncio.get_running_loop().sock_recv(sock, 1)
        assert record == b"\x16"


async def test_who_leaves_most_handshakes_half_open_loses_the_oldest_of_them(
    tls: TlsServerSettings, authority: Authority, socks: contextlib.ExitStack
) -> None:
    async with running_worker(tls=[tls], limits=SMALL) as gateway:
        half_open = gateway.path.acceptor._half_open
        slow = connect(socks, gateway, OTHER)
        slow.send(hello(authority))
        await until(lambda: len(half_open) == 1)
        flood = []
        for gone in range(2 - PLACES, 2 * PLACES):
            flood.append(connect(socks, gateway, FLOOD))
            flood[-1].send(hello(authority))
            await until(lambda: len(half_open) == min(1 + len(flood), PLACES))
            await until_turned_away(gateway, max(gone, 0))
        assert gateway.context.budget.used == PLACES * HANDSHAKE_BYTES
        turned_away = len(flood) + 1 - PLACES
        assert gateway.counted(REFUSED) == {("half_open",): turned_away}
        for sock in flood[:turned_away]:
            await ends(sock)
        assert await is_served(gateway, authority)
        assert gateway.counted(REFUSED) == {("half_open",): turned_away + 1}
        # The slow one of another address still has its place.
        assert slow.recv(1, socket.MSG_PEEK) == b"\x16"
        slow.send(b"no record of TLS")
        assert len(await ends(slow)) > 0
        await until(lambda: gateway.count(REFUSED, "tls_handshake") == 1)
    assert gateway.context.budget.used == 0


# Connections of one address


ONE = limits(max_connections_per_address=1)


def places(gateway: RunningWorker) -> int:
    return len(gateway.path.acceptor._places)


async def test_beyond_the_limit_of_its_address_a_client_is_answered_and_others_are_served(
    socks: contextlib.ExitStack,
) -> None:
    async with running_worker(limits=ONE) as gateway:
        first = connect(socks, gateway, FLOOD)
        await until(lambda: gateway.worker.connections == 1)
        second = connect(socks, gateway, FLOOD)
        second.send(GET_LIVEZ)
        assert (await ends(second)).startswith(b"HTTP/1.1 503 ")
        assert gateway.counted(REFUSED) == {("address_limit",): 1}
        assert (await http1_request(gateway.port, "/livez", (), method="GET")).status == 200
        second.close()
        first.close()
        await until(lambda: gateway.worker.connections == 0)
        again = connect(socks, gateway, FLOOD)
        again.send(GET_LIVEZ)
        assert (await ends(again)).startswith(b"HTTP/1.1 200 ")
        again.close()
        await until(lambda: places(gateway) == 0)


async def test_those_of_an_address_that_are_answered_at_a_time_are_bounded_too(
    socks: contextlib.ExitStack,
) -> None:
    async with running_worker(limits=ONE, sweeping=False) as gateway:
        for _ in range(MAX_OVER_LIMIT + 11):
            connect(socks, gateway, FLOOD)
            await asyncio.sleep(0)
        await until(lambda: gateway.count(REFUSED, "address_limit") == MAX_OVER_LIMIT + 10)
        assert gateway.worker.connections == places(gateway) == MAX_OVER_LIMIT + 1


async def test_beyond_the_limit_of_its_address_tls_is_closed_without_a_handshake(
    tls: TlsServerSettings, authority: Authority, socks: contextlib.ExitStack
) -> None:
    async with running_worker(tls=[tls], limits=ONE) as gateway:
        connect(socks, gateway, FLOOD)
        await until(lambda: gateway.worker.connections == 1)
        assert await ends(connect(socks, gateway, FLOOD)) == b""
        assert gateway.counted(REFUSED) == {("address_limit",): 1}
        assert places(gateway) == 1
        assert await is_served(gateway, authority)


def proxied(source: str) -> bytes:
    """Return a PROXY header and a request."""
    family = "TCP6" if ":" in source else "TCP4"
    balancer = "::1" if ":" in source else "10.0.0.1"
    return f"PROXY {family} {source} {balancer} 51234 4317\r\n".encode() + GET_LIVEZ


@pytest.mark.parametrize(
    "held,source,status",
    [
        ("203.0.113.7", "203.0.113.7", b"503"),
        ("203.0.113.7", "203.0.113.8", b"200"),
        ("203.0.113.7", "::ffff:203.0.113.7", b"503"),
        ("2001:db8::1", "2001:db8::ffff:1", b"503"),
        ("2001:db8::1", "2001:db8:0:1::1", b"200"),
    ],
)
async def test_behind_a_balancer_the_address_in_the_proxy_header_is_limited(
    socks: contextlib.ExitStack, held: str, source: str, status: bytes
) -> None:
    networks = ("127.0.0.0/8",)
    async with running_worker(
        limits=ONE, proxy_protocol=True, trusted_networks=networks
    ) as gateway:
        connect(socks, gateway, FLOOD).send(proxied(held)[:-2])
        await until(lambda: places(gateway) == 1)
        sock = connect(socks, gateway, FLOOD)
        sock.send(proxied(source))
        assert (await ends(sock)).split()[1] == status


async def test_a_balancer_that_speaks_for_itself_is_not_limited(
    socks: contextlib.ExitStack,
) -> None:
    networks = ("127.0.0.0/8",)
    async with running_worker(
        limits=ONE, proxy_protocol=True, trusted_networks=networks
    ) as gateway:
        for _ in range(3):
            connect(socks, gateway, FLOOD)  # sends no header yet
        checks = [connect(socks, gateway, FLOOD) for _ in range(3)]
        for sock in checks:
            sock.send(b"PROXY UNKNOWN\r\n")
        await until(lambda: gateway.worker.connections == 6)
        for sock in checks:
            sock.send(GET_LIVEZ)
            assert (await ends(sock)).startswith(b"HTTP/1.1 200 ")
        assert places(gateway) == 0


async def test_without_a_limit_no_address_is_turned_away(socks: contextlib.ExitStack) -> None:
    async with running_worker(limits=limits(max_connections_per_address=0)) as gateway:
        for _ in range(3):
            connect(socks, gateway, FLOOD)
        await until(lambda: gateway.worker.connections == 3)
        assert places(gateway) == 0
        assert gateway.counted(REFUSED) == {}


async def test_each_place_of_an_address_is_given_back_once_however_its_connection_ends(
    tls: TlsServerSettings, authority: Authority, socks: contextlib.ExitStack
) -> None:
    few = limits(max_connections_per_address=3, header_timeout_s=0.2)
    async with running_worker(tls=[None, tls], limits=few) as gateway:
        cleartext, encrypted = gateway.ports
        context = authority.client_context()
        for data, port in (
            (b"", cleartext),  # never says what it speaks
            (b"GET /livez", cleartext),
            (b"\x16\x03", cleartext),
            (GET_LIVEZ, cleartext),
            (b"GET / HTTP/9\r\n\r\n", cleartext),
            (b"", encrypted),
            (b"\x16\x03", encrypted),
            (GET_LIVEZ, encrypted),
            (hello(authority), encrypted),  # and never the rest
        ):
            sock = socks.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.settimeout(0)
            await until(lambda: places(gateway) == 1)
            sock.send(data)
            gateway.sweep(in_s=10)
            if data == b"GET /livez":
                sock.close()
            else:
                await ends(sock)
            await until(lambda: places(gateway) == gateway.worker.connections == 0)
        async with Http2Client(encrypted, context) as client:
            assert (await client.request("/livez", (), method="GET")).status == 200
            assert places(gateway) == 1
        await until(lambda: places(gateway) == 0)
        held = connect(socks, gateway, OTHER)
        await until(lambda: places(gateway) == 1)
        await gateway.worker.stop(0)
        await ends(held)
        await until(lambda: places(gateway) == 0)
