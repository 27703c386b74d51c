from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from gateway.control.core import sockets
from gateway.control.core.sockets import (
    BindError,
    ListenSockets,
    close_leftover,
    descriptor_shortfall,
    take_inherited,
)


@pytest.fixture
def listening() -> Iterator[ListenSockets]:
    held = ListenSockets()
    yield held
    held.close()


def occupy(host: str = "127.0.0.1") -> socket.socket:
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.bind((host, 0))
    holder.listen()
    return holder


def port_of(holder: socket.socket) -> int:
    return int(holder.getsockname()[1])


async def test_each_address_gets_a_listening_socket_in_its_place(listening: ListenSockets) -> None:
    first, second = await listening.bind(["127.0.0.1:0", "127.0.0.1:0"])
    assert first[0].bound != second[0].bound
    for bound in (*first, *second):
        socket.create_connection(bound.sock.getsockname()).close()
        assert not bound.sock.getblocking()
        assert not bound.sock.get_inheritable()


async def test_a_name_is_bound_at_all_of_its_addresses(listening: ListenSockets) -> None:
    [bounds] = await listening.bind(["localhost:0"])
    assert {bound.address for bound in bounds} == {"localhost:0"}
    names = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {bound.sock.getsockname()[0] for bound in bounds} <= names


async def test_no_host_means_all_interfaces(listening: ListenSockets) -> None:
    [[bound]] = await listening.bind([":0"])
    port = bound.sock.getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()


async def test_ipv6_is_written_in_brackets(listening: ListenSockets) -> None:
    [[bound]] = await listening.bind(["[::1]:0"])
    assert bound.bound == f"[::1]:{bound.sock.getsockname()[1]}"


async def test_an_address_in_use_is_waited_for(listening: ListenSockets) -> None:
    holder = occupy()
    waited: list[str] = []

    def let_go(address: str) -> None:
        waited.append(address)
        holder.close()

    address = f"127.0.0.1:{port_of(holder)}"
    [[bound]] = await listening.bind([address], on_wait=let_go)
    assert waited == [address]
    assert bound.bound == address


async def test_an_address_that_stays_in_use_is_an_error_that_says_what_to_do(
    listening: ListenSockets,
) -> None:
    with occupy() as holder:
        address = f"127.0.0.1:{port_of(holder)}"
        with pytest.raises(
            BindError, match=rf"cannot listen on {address}: .*ss -ltnp sport = :{port_of(holder)}"
        ):
            await listening.bind([address], patience_s=0)


async def test_a_failure_leaves_nothing_bound_that_was_not_before(listening: ListenSockets) -> None:
    free = occupy()
    free_address = f"127.0.0.1:{port_of(free)}"
    free.close()
    with occupy() as holder, pytest.raises(BindError):
        await listening.bind([free_address, f"127.0.0.1:{port_of(holder)}"], patience_s=0)
    again = ListenSockets()
    await again.bind([free_address], patience_s=0)
    again.close()


async def test_an_address_of_no_interface_is_an_error(listening: ListenSockets) -> None:
    with pytest.raises(BindError, match="no network interface of this host has this address"):
        await listening.bind(["192.0.2.1:0"])


async def test_a_name_that_does_not_exist_is_an_error(listening: ListenSockets) -> None:
    with pytest.raises(BindError, match="the host name cannot be resolved"):
        await listening.bind(["name.invalid:4317"])


async def test_sockets_are_kept_over_a_reload_and_the_others_closed(
    listening: ListenSockets,
) -> None:
    [[kept], [dropped]] = await listening.bind(["127.0.0.1:0", "[::1]:0"])
    [[same]] = await listening.bind(["127.0.0.1:0"])
    assert same is kept
    listening.keep_only(["127.0.0.1:0"])
    assert dropped.sock.fileno() == -1
    assert kept.sock.fileno() != -1


async def test_a_socket_from_outside_is_used_for_the_address_that_names_it() -> None:
    given, other = occupy(), occupy()
    inherited = [given, other]
    held = ListenSockets(inherited)
    [[bound]] = await held.bind([f"127.0.0.1:{port_of(given)}"])
    assert bound.sock is given
    assert not given.getblocking()
    other_address = f"127.0.0.1:{port_of(other)}"
    with capture_logs() as logs:
        close_leftover(inherited)
    assert [log["address"] for log in logs] == [other_address]
    assert other.fileno() == -1
    assert inherited == []
    held.close()


@pytest.mark.parametrize("configured", ["0.0.0.0", "[::]", ""])
async def test_a_wildcard_from_outside_stands_for_any_wildcard(configured: str) -> None:
    given = occupy("::")
    held = ListenSockets([given])
    [[bound]] = await held.bind([f"{configured}:{port_of(given)}"])
    assert bound.sock is given
    held.close()


def test_nothing_is_taken_without_systemd() -> None:
    assert take_inherited({}) == []


def test_the_soft_descriptor_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert sockets.raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_descriptors_are_told_with_both_numbers() -> None:
    text = descriptor_shortfall(1024, max_connections=50_000, workers=2, upstream=24)
    assert "1024 file descriptors" in text
    assert "limits.max_connections 50000" in text
    assert "LimitNOFILE=25152" in text


@pytest.mark.parametrize("allowed", [25_152, 1_048_576, resource.RLIM_INFINITY])
def test_enough_descriptors_are_not_worth_a_word(allowed: int) -> None:
    assert descriptor_shortfall(allowed, 50_000, 2, 24) == ""
