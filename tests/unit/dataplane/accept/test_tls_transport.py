"""`TlsTransport` against Python's own TLS client, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.hostile.attacks.tls import key_updates
from gateway.dataplane.accept import upper_transport
from gateway.dataplane.accept.tls_records import MOST_AT_ONCE, MOST_USELESS, SLICE
from gateway.dataplane.accept.tls_shared import HANDSHAKE_BYTES, SHARED_BYTES, TlsShared
from gateway.dataplane.accept.tls_transport import TlsTransport
from gateway.dataplane.accept.turns import ClientTurns
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.tls import server_context
from gateway.settings import TlsServerSettings
from tests.support.certs import Authority
from tests.support.polling import until

WAIT_S = 20
MIB = 1024 * 1024
PEER = "192.0.2.1:1"


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
    budget: Budget
    abusers: list[str]


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
    settings = TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))
    budget = Budget(64 * MIB)
    turns = ClientTurns(asyncio.get_running_loop())
    abusers: list[str] = []
    shared = TlsShared(
        memoryview(bytearray(SHARED_BYTES)),
        budget,
        turns,
        memoryview(bytearray(1)),
        abusers.append,
    )
    transport = TlsTransport(server_context(settings), lambda: side, shared, PEER, "192.0.2.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    if send_buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
    theirs.settimeout(0)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, ours)
    try:
        client = Client(theirs, context or authority.client_context())
        yield Pair(side, transport, client, budget, abusers)
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
    monkeypatch.setattr(upper_transport, "CLOSE_S", 0.05)
    async with connected(authority) as made:
        made.transport.close()
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)


async def test_closing_waits_as_long_as_the_client_takes_what_was_sent(
    authority: Authority,
) -> None:
    async with connected(authority, send_buffer=32768) as made:
        made.transport.write(bytes(MIB))
        made.transport.close()
        watch = made.transport._closing
        assert watch is not None
        for _ in range(3):
            unsent = made.transport.get_write_buffer_size()
            watch._look()
            await made.client.read_exactly(100_000)
            await until(lambda before=unsent: made.transport.get_write_buffer_size() < before)  # type: ignore[misc]  # bound now
        assert not made.side.lost.is_set()
        watch._look()
        watch._look()  # nothing was taken between the two
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


async def test_what_is_not_read_is_charged_and_a_handshake_until_it_is_done(
    authority: Authority,
) -> None:
    data = random.Random(3).randbytes(100_000)
    side = Side(room=1000, pauses_each_time=True)
    async with pair(authority, side) as made:
        assert made.budget.used == HANDSHAKE_BYTES
        await made.client.shake_hands()
        await asyncio.wait_for(made.transport.shaken_hands, WAIT_S)
        assert made.budget.used == 0
        sending = asyncio.ensure_future(made.client.send(data))
        await until(lambda: made.budget.used > 0)
        most = 0
        while len(side.received) < len(data):
            most = max(most, made.budget.used)
            made.transport.resume_reading()
            await asyncio.sleep(0)
        await sending
        assert most <= SHARED_BYTES
        assert made.budget.used == 0


async def test_what_was_not_read_is_let_go_with_the_connection(authority: Authority) -> None:
    side = Side(room=1000, pauses_each_time=True)
    async with connected(authority, side) as made:
        await made.client.send(bytes(100_000))
        await until(lambda: made.budget.used > 0)
        made.transport.abort()
        await asyncio.wait_for(side.lost.wait(), WAIT_S)
        assert made.budget.used == 0


async def test_a_handshake_that_is_given_up_is_charged_no_more(authority: Authority) -> None:
    async with pair(authority) as made:
        assert made.budget.used == HANDSHAKE_BYTES
        made.client.sock.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(made.transport.shaken_hands, WAIT_S)
        assert made.budget.used == 0


@dataclass
class Refusing(Side):
    """Ends its half at the first bytes, while others wait behind them, and reads on."""

    stays_open: bool = True

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.transport.write_eof()


@pytest.mark.parametrize("room", [1, 1_000, SLICE, 40_000])
async def test_a_half_is_closed_while_data_waits_and_all_of_it_is_still_read(
    authority: Authority, room: int
) -> None:
    data = random.Random(4).randbytes(100_000)
    side = Refusing(room=room)
    async with connected(authority, side) as made:
        await made.client.send(data)
        await until(lambda: len(side.received) == len(data))
        assert side.received == data
        await made.client.read_end()
        assert side.events == ["made"]


@pytest.mark.parametrize("with_close_notify", [True, False])
async def test_the_end_of_input_comes_behind_what_was_not_read(
    authority: Authority, with_close_notify: bool
) -> None:
    data = random.Random(5).randbytes(50_000)
    side = Side(room=1000, pauses_each_time=True, stays_open=True)
    async with connected(authority, side) as made:
        await made.client.send(data)
        if with_close_notify:
            await made.client.close_notify()
        else:
            made.client.sock.shutdown(socket.SHUT_WR)
        while len(side.received) < len(data):
            assert side.events == ["made"]
            made.transport.resume_reading()
            await asyncio.sleep(0)
        made.transport.resume_reading()
        await until(lambda: side.events == ["made", "eof"])
        assert side.received == data


async def test_nothing_follows_our_close_notify(authority: Authority) -> None:
    """A peer that sends nonsense then is not told so: the socket takes no more."""
    async with connected(authority, Side(stays_open=True)) as made:
        made.transport.write_eof()
        await made.client.read_end()
        made.client.sock.send(b"\x17\x03\x03\0\x05wrong")
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        assert made.side.events == ["made", "lost"]


@asynccontextmanager
async def with_key_updates(
    authority: Authority, tmp_path: Path
) -> AsyncIterator[tuple[Pair, Iterator[bytes]]]:
    """Connect a client, with the records that update its keys one after the other."""
    log = tmp_path / "keys"
    context = authority.client_context()
    context.keylog_filename = str(log)
    async with pair(authority, context=context) as made:
        await made.client.shake_hands()
        await asyncio.wait_for(made.transport.shaken_hands, WAIT_S)
        secret = re.search(r"CLIENT_TRAFFIC_SECRET_0 \S+ (\S+)", log.read_text("ascii"))
        cipher = made.client.tls.cipher()
        assert secret
        assert cipher
        yield made, key_updates(bytes.fromhex(secret[1]), cipher[0])


async def test_a_client_that_does_nothing_but_update_its_keys_is_ended_and_reported_once(
    authority: Authority, tmp_path: Path
) -> None:
    async with with_key_updates(authority, tmp_path) as (made, updates):
        flood = b"".join(next(updates) for _ in range(MOST_USELESS + 10 * MOST_AT_ONCE))
        made.client.sock.send(flood)
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        assert made.abusers == [PEER]
        assert made.side.events == ["made", "lost"]
        assert made.side.received == b""


async def test_openssl_is_given_only_so_many_key_updates_of_those_that_come_at_once(
    authority: Authority, tmp_path: Path
) -> None:
    async with with_key_updates(authority, tmp_path) as (made, updates):
        flood = b"".join(next(updates) for _ in range(20 * MOST_AT_ONCE))
        made.transport.get_buffer(-1)[: len(flood)] = flood
        made.transport.buffer_updated(len(flood))  # as one read
        await asyncio.wait_for(made.side.lost.wait(), WAIT_S)
        sent = b""
        with contextlib.suppress(ConnectionResetError):
            while data := made.client.sock.recv(65536):
                sent += data
        answers = sent.count(b"\x17\x03\x03\0\x16")  # heads of records with a KeyUpdate
        assert MOST_USELESS < answers <= MOST_USELESS + MOST_AT_ONCE


async def test_as_many_key_updates_as_a_client_may_send_are_answered(
    authority: Authority, tmp_path: Path
) -> None:
    async with with_key_updates(authority, tmp_path) as (made, updates):
        for _ in range(MOST_USELESS):
            made.client.sock.send(next(updates))
        made.transport.write(b"answer")
        assert await made.client.read_exactly(6) == b"answer"
        assert made.abusers == []
        assert not made.transport.is_closing()


async def test_small_records_with_data_are_no_abuse_even_where_they_are_not_read_at_once(
    authority: Authority,
) -> None:
    side = Side(room=7, pauses_each_time=True)
    async with connected(authority, side) as made:
        for _ in range(20 * MOST_AT_ONCE):
            made.client.tls.write(b"1")
        await made.client.flush()
        while len(side.received) < 20 * MOST_AT_ONCE:
            made.transport.resume_reading()
            await asyncio.sleep(0)
        assert made.abusers == []
