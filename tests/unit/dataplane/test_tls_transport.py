"""`TlsTransport` against Python's own TLS client, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.dataplane import tls_transport
from gateway.dataplane.tls import server_context
from gateway.dataplane.tls_transport import SHARED_BYTES, SLICE, TlsTransport
from gateway.settings import TlsServer
from tests.support.certs import Authority
from tests.support.polling import until

WAIT_S = 20
MIB = 1024 * 1024


@dataclass
class Side(asyncio.BufferedProtocol):
    """The protocol above: keeps what comes. `room` is the size of its buffer."""

    room: int = 256 * 1024
    stays_open: bool = False
    pauses_each_time: bool = False
    received: bytearray = field(default_factory=bytearray)
    events: list[str] = field(default_factory=list)
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.buffer = bytearray(self.room)
        self.view = memoryview(self.buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport
        self.events.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        assert self.transport.is_reading()
        self.received += self.view[:nbytes]
        if self.pauses_each_time:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.stays_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(f"lost {exc!r}" if exc else "lost")
        self.lost.set()


class Client:
    """A TLS client on a blocking socket, driven from the loop: every byte is under control."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        # Set by default in early releases of Python 3.11: a cut connection would look like an end.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self.sock = sock
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self._loop = asyncio.get_running_loop()

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self._loop.sock_sendall(self.sock, self.outgoing.read())

    async def _fill(self) -> None:
        data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 65536), WAIT_S)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def _do(self, step: Callable[[], bytes | int | None]) -> bytes | int | None:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self.flush()
                await self._fill()
            else:
                await self.flush()
                return result

    async def shake_hands(self) -> None:
        await self._do(self.tls.do_handshake)

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def read_exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = await self._do(lambda: self.tls.read(65536))
            assert isinstance(part, bytes)
            if not part:
                break
            data += part
        return data

    async def read_end(self) -> None:
        """Expect the peer's close_notify."""
        with contextlib.suppress(ssl.SSLZeroReturnError):  # where ours was sent before
            assert await self._do(lambda: self.tls.read(1)) == b""

    async def close_notify(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@dataclass
class Pair:
    side: Side
    transport: TlsTransport
    client: Client


@asynccontextmanager
async def pair(
    authority: Authority,
    side: Side | None = None,
    context: ssl.SSLContext | None = None,
    send_buffer: int = 0,
) -> AsyncIterator[Pair]:
    """Connect a client to a `TlsTransport`; the handshake is the test's."""
    side = side or Side()
    certificate = authority.issue("server", ["localhost"])
    settings = TlsServer(str(certificate.cert_file), str(certificate.key_file))
    shared = memoryview(bytearray(SHARED_BYTES))
    transport = TlsTransport(server_context(settings), lambda: side, shared)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    if send_buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
    theirs.settimeout(0)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, ours)
    try:
        yield Pair(side, transport, Client(theirs, context or authority.client_context()))
    finally:
        theirs.close()
        transport.abort()
        if "made" in side.events:
            await asyncio.wait_for(side.lost.wait(), WAIT_S)


@asynccontextmanager
async def connected(
    authority: Authority, side: Side | None = None, send_buffer: int = 0
) -> AsyncIterator[Pair]:
    async with pair(authority, side, send_buffer=send_buffer) as made:
        await made.client.shake_hands()
        await asyncio.wait_for(made.transport.shaken_hands, WAIT_S)
        yield made


@pytest.mark.parametrize("length", [1, 100, SLICE - 1, SLICE, SLICE + 1, SHARED_BYTES, MIB])
async def test_what_a_client_sends_arrives_and_what_is_sent_to_it_too(
    authority: Authority, length: int
) -> None:
    data = random.Random(length).randbytes(length)
    async with connected(authority) as made:
        await made.client.send(data)
        await until(lambda: len(made.side.received) == length)
        assert made.side.received == data
        made.transport.writelines([data[:10], data[10:]])
        assert await made.client.read_exactly(length) == data


@pytest.mark.parametrize("at_once", [1, 7, 100])
async def test_records_may_be_cut_anywhere(authority: Authority, at_once: int) -> None:
    data = bytes(range(256)) * 2
    async with connected(authority) as made:
        made.client.tls.write(data)
        cipher = made.client.outgoing.read()
        for at in range(0, len(cipher), at_once):
            made.client.sock.send(cipher[at : at + at_once])
            for _ in range(3):
                await asyncio.sleep(0)
        await until(lambda: made.side.received == data)


async def test_many_small_writes_arrive_in_order(authority: Authority) -> None:
    async with connected(authority) as made:
        parts = [b"%d," % number for number in range(1000)]
        for part in parts:
            made.transport.write(part)
        made.transport.write(b"")
        whole = b"".join(parts)
        assert await made.client.read_exactly(len(whole)) == whole


async def test_a_protocol_with_a_small_buffer_gets_everything(authority: Authority) -> None:
    data = random.Random(1).randbytes(200_000)
    async with connected(authority, Side(room=1000)) as made:
        await made.client.send(data)
        await until(lambda: len(made.side.received) == len(data))
        assert made.side.received == data


async def test_nothing_is_delivered_while_reading_is_paused_and_nothing_is_lost(
    authority: Authority,
) -> None:
    data = random.Random(2).randbytes(300_000)
    side = Side(room=1000, pauses_each_time=True)
    async with connected(authority, side) as made:
        sending = asyncio.ensure_future(made.client.send(data))
        while len(side.received) < len(data):
            before = len(side.received)
            await until(lambda before=before: len(side.received) > before)  # type: ignore[misc]  # bound now
            assert len(side.received) - before <= 1000
            made.transport.resume_reading()
        await sending
        assert side.received == data


async def test_a_paused_connection_delivers_again_only_when_resumed(authority: Authority) -> None:
    async with connected(authority) as made:
        made.transport.pause_reading()
        assert not made.transport.is_reading()
        await made.client.send(b"abc")
        for _ in range(10):
            await asyncio.sleep(0)
        assert made.side.received == b""
        made.transport.resume_reading()
        await until(lambda: made.side.received == b"abc")


async def test_a_client_that_does_not_read_pauses_writing_until_it_does(
    authority: Authority,
) -> None:
    async with connected(authority, send_buffer=32768) as made:
        made.transport.set_write_buffer_limits(high=0)
        made.transport.write(bytes(MIB))
        assert made.side.events == ["made", "pause"]
        assert made.transport.get_write_buffer_size() > 0
        assert await made.client.read_exactly(MIB) == bytes(MIB)
        await until(lambda: made.side.events == ["made", "pause", "resume"])
        assert made.transport.get_write_buffer_size() == 0


async def test_a_client_learns_by_an_alert_why_its_handshake_failed(authority: Authority) -> None:
    old = authority.client_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("AES128-SHA256:@SECLEVEL=1")
    async with pair(authority, context=old) as made:
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await made.client.shake_hands()
        with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
            await made.transport.shaken_hands
    assert made.side.events == []


async def test_a_handshake_that_is_broken_off_ends_with_an_error(authority: Authority) -> None:
    async with pair(authority) as made:
        made.client.sock.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(made.transport.shaken_hands, WAIT_S)


async def test_data_in_the_same_segment_as_the_end_of_the_handshake_arrives(
    authority: Authority,
) -> None:
    async with pair(authority) as made:
        tls = made.client.tls
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        await made.client.flush()
        while made.client.outgoing.pending == 0:
            await made.client._fill()
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        tls.write(b"early")
        await made.client.flush()
        await until(lambda: made.side.received == b"early")


@pytest.mark.parametrize("with_close_notify", [True, False])
async def test_a_client_that_has_ended_its_half_still_gets_an_answer(
    authority: Authority, with_close_notify: bool
) -> None:
    async with connected(authority, Side(stays_open=True)) as made:
        await made.client.send(b"question")
        if with_close_notify:
            await made.client.close_notify()
        made.client.sock.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in made.side.events)
        made.transport.write(b"answer")
        assert await made.client.read_exactly(6) == b"answer"
        made.transport.close()
        await made.client.read_end()
        await made.side.lost.wait()
        assert made.side.events == ["made", "eof", "lost"]


async def test_a_protocol_that_has_nothing_to_answer_closes_at_the_end_of_input(
    authority: Authority,
) -> None:
    async with connected(authority) as made:
        await made.client.close_notify()
        await made.client.read_end()
        made.client.sock.close()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        assert made.side.events == ["made", "eof", "lost"]


async def test_after_our_half_has_ended_the_clients_is_still_read(authority: Authority) -> None:
    async with connected(authority) as made:
        assert made.transport.can_write_eof()
        made.transport.write(b"refused")
        made.transport.write_eof()
        made.transport.write(b"too late")
        assert await made.client.read_exactly(100) == b"refused"
        await made.client.send(bytes(MIB))
        await until(lambda: len(made.side.received) == MIB)
        assert made.side.events == ["made"]


async def test_what_was_written_before_close_arrives_before_the_end(authority: Authority) -> None:
    async with connected(authority, send_buffer=32768) as made:
        made.transport.write(bytes(MIB))
        made.transport.close()
        assert made.transport.is_closing()
        assert await made.client.read_exactly(2 * MIB) == bytes(MIB)
        made.client.sock.close()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)


async def test_what_comes_after_close_is_thrown_away_so_that_the_client_sees_the_answer(
    authority: Authority,
) -> None:
    async with connected(authority) as made:
        made.transport.write(b"answer")
        made.transport.pause_reading()
        made.transport.close()
        await made.client.send(bytes(MIB))
        assert await made.client.read_exactly(100) == b"answer"
        made.client.sock.close()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        assert made.side.received == b""


async def test_a_client_that_does_not_close_its_half_is_closed_in_time(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "_CLOSE_S", 0.05)
    async with connected(authority) as made:
        made.transport.close()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)


async def test_closing_waits_as_long_as_the_client_takes_what_was_sent(
    authority: Authority,
) -> None:
    async with connected(authority, send_buffer=32768) as made:
        made.transport.write(bytes(MIB))
        made.transport.close()
        for _ in range(3):
            unsent = made.transport.get_write_buffer_size()
            made.transport._give_up()
            await made.client.read_exactly(100_000)
            await until(lambda before=unsent: made.transport.get_write_buffer_size() < before)  # type: ignore[misc]  # bound now
        assert not made.side.lost.is_set()
        made.transport._give_up()
        made.transport._give_up()  # nothing was taken between the two
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)


async def test_abort_ends_at_once_without_a_proper_end(authority: Authority) -> None:
    async with connected(authority) as made:
        made.transport.abort()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await made.client.read_end()


async def test_a_record_that_was_tampered_with_ends_the_connection(authority: Authority) -> None:
    async with connected(authority) as made:
        made.client.tls.write(b"secret")
        cipher = bytearray(made.client.outgoing.read())
        cipher[-1] ^= 1
        made.client.sock.send(cipher)
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        assert made.side.received == b""


async def test_the_transport_tells_what_asyncios_does(authority: Authority) -> None:
    async with connected(authority) as made:
        transport = made.transport
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert transport.get_extra_info("peername") == made.client.sock.getsockname()
        assert transport.get_extra_info("nothing", "default") == "default"
        assert transport.get_protocol() is made.side
        transport.set_write_buffer_limits(high=5, low=2)
        assert transport.get_write_buffer_limits() in {(2, 5), (5, 2)}
    assert transport.is_closing()
    assert transport.get_extra_info("peername", "gone") == "gone"
    assert transport.get_write_buffer_size() == 0
    transport.write(b"nobody reads this")
    transport.close()
    transport.abort()
