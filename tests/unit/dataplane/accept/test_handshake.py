"""Handshakes whose turn does not come, and what is left of those that are over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.dataplane.accept.half_open import HalfOpen
from gateway.dataplane.accept.handshake import (
    TLS_FAILED,
    TLS_HANDSHAKE,
    Handshake,
    HandshakeError,
    ListenerPolicy,
)
from gateway.dataplane.accept.tls_shared import SHARED_BYTES, TlsShared
from gateway.dataplane.accept.turns import ClientTurns
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.tls import server_context
from gateway.settings import ListenerSettings, TlsServerSettings
from tests.support.certs import Authority
from tests.support.polling import until

NO_RECORD = b"SSH-2.0-client\r\n"


class Busy(ClientTurns):
    """Keeps the steps."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.kept: list[Callable[[], None]] = []

    def add(self, client: str, step: Callable[[], None]) -> None:
        self.kept.append(step)


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        yield ours, theirs


@pytest.fixture(name="without_collector")
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left_in_memory() -> int:
    """Count the server sides of TLS connections, open or not."""
    return sum(isinstance(it, ssl.SSLObject) and it.server_side for it in gc.get_objects())


def policy(
    tmp_path: Path, turns: ClientTurns, budget: Budget, timeout_s: float = 0.1
) -> ListenerPolicy:
    certificate = Authority.create(tmp_path).issue("server", ["localhost"])
    tls = TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))
    view = memoryview(bytearray(SHARED_BYTES))
    shared = TlsShared(view, budget, turns, memoryview(bytearray(1)), lambda _: None)
    listener = ListenerSettings(0, "127.0.0.1:1", tls)
    context: ssl.SSLContext = server_context(tls)
    return ListenerPolicy(listener, context, HalfOpen(1), shared, timeout_s)


async def test_one_whose_turn_does_not_come_is_given_up_and_holds_nothing(
    tmp_path: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    turns, budget = Busy(), Budget(1_000_000)
    rules = policy(tmp_path, turns, budget)
    ours, theirs = ends
    theirs.send(NO_RECORD)
    handshake = Handshake(ours, "192.0.2.1:1", "192.0.2.1", rules, is_trusted=False)
    with pytest.raises(HandshakeError) as raised:
        await handshake.run(lambda _: None, asyncio.BufferedProtocol)
    assert (raised.value.reason, raised.value.text) == (TLS_HANDSHAKE, TLS_FAILED)
    assert raised.value.detail == "too many others were under way"
    (step,) = turns.kept
    step()  # its turn comes too late
    assert (budget.used, len(rules.half_open), ours.fileno()) == (0, 0, -1)


async def test_one_whose_client_has_gone_before_its_turn_is_counted_as_broken_off(
    tmp_path: Path,
) -> None:
    turns, budget = Busy(), Budget(1_000_000)
    rules = policy(tmp_path, turns, budget)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.settimeout(0)
    theirs.send(NO_RECORD)
    handshake = Handshake(ours, "192.0.2.1:1", "192.0.2.1", rules, is_trusted=False)
    running = asyncio.ensure_future(handshake.run(lambda _: None, asyncio.BufferedProtocol))
    while not turns.kept:
        await asyncio.sleep(0)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    theirs.close()
    ours.recv(100)  # the kernel may drop what a client sent that has gone
    turns.kept[0]()
    with pytest.raises(HandshakeError, match=TLS_FAILED):
        await running
    assert (budget.used, len(rules.half_open), ours.fileno()) == (0, 0, -1)


async def test_the_hello_of_a_client_that_has_gone_is_not_answered(
    tmp_path: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    turns, budget = Busy(), Budget(1_000_000)
    rules = policy(tmp_path, turns, budget, timeout_s=20)
    ours, theirs = ends
    theirs.send(client_hello())
    handshake = Handshake(ours, "192.0.2.1:1", "192.0.2.1", rules, is_trusted=False)
    running = asyncio.ensure_future(handshake.run(lambda _: None, asyncio.BufferedProtocol))
    while not turns.kept:
        await asyncio.sleep(0)
    theirs.close()
    turns.kept[0]()
    with pytest.raises(HandshakeError) as raised:
        await running
    assert raised.value.detail == "the client has gone"
    assert (budget.used, len(rules.half_open), ours.fileno()) == (0, 0, -1)


def client_hello() -> bytes:
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.usefixtures("without_collector")
async def test_what_waits_for_its_turn_takes_no_memory_for_tls(
    tmp_path: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    turns = Busy()
    ours, theirs = ends
    theirs.send(client_hello())
    rules = policy(tmp_path, turns, Budget(1_000_000))
    handshake = Handshake(ours, "192.0.2.1:1", "192.0.2.1", rules, is_trusted=False)
    before = left_in_memory()
    running = asyncio.ensure_future(handshake.run(lambda _: None, asyncio.BufferedProtocol))
    while not turns.kept:
        await asyncio.sleep(0)
    assert left_in_memory() == before
    with pytest.raises(HandshakeError):
        await running


def breaks_off(theirs: socket.socket, _: Handshake) -> None:
    theirs.close()


def sends_nonsense(theirs: socket.socket, _: Handshake) -> None:
    theirs.send(b"\x16\x03\x03\0\x01\0")


def has_to_give_way(_: socket.socket, handshake: Handshake) -> None:
    handshake.give_way()


def says_no_more(_: socket.socket, __: Handshake) -> None:
    """Let it end by the timeout."""


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("end", [breaks_off, sends_nonsense, has_to_give_way, says_no_more])
async def test_a_handshake_that_fails_is_freed_at_once(
    tmp_path: Path,
    ends: tuple[socket.socket, socket.socket],
    end: Callable[[socket.socket, Handshake], None],
) -> None:
    """Without the garbage collector, which runs seldom: thousands would pile up meanwhile."""
    turns = ClientTurns(asyncio.get_running_loop())
    rules = policy(tmp_path, turns, Budget(1_000_000), timeout_s=0.5)
    before = left_in_memory()
    ours, theirs = ends
    theirs.send(client_hello())
    await run_to_its_error(ours, rules, theirs, end)
    await until(lambda: left_in_memory() == before)


async def run_to_its_error(
    ours: socket.socket,
    rules: ListenerPolicy,
    theirs: socket.socket,
    end: Callable[[socket.socket, Handshake], None],
) -> None:
    handshake = Handshake(ours, "192.0.2.1:1", "192.0.2.1", rules, is_trusted=False)
    running = asyncio.ensure_future(handshake.run(lambda _: None, asyncio.BufferedProtocol))
    while not len(rules.half_open):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # so that it has its socket
    end(theirs, handshake)
    with contextlib.suppress(HandshakeError):
        await running
