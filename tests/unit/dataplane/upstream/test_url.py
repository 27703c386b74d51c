"""When a name is resolved, and what becomes of its addresses, with a clock of the test's own."""

from __future__ import annotations

import socket

import pytest

from gateway.dataplane.core.seams import UpstreamConnection, UpstreamRequest
from gateway.dataplane.upstream.address import Address, Where
from gateway.dataplane.upstream.url import Url, literal_address
from gateway.settings import Target
from tests.support.in_memory import MemoryConnection

NAME = Target("backend.test", 4317)


def where(host: str) -> Where:
    return Where(socket.AF_INET, (host, 4317))


class Nobody:
    """Has no requests, and hears nothing (`PlaceTaker`, `AddressWatcher`)."""

    def __init__(self) -> None:
        self.waiting: dict[UpstreamRequest, object] = {}

    def has_capacity(self, address: Address, connection: UpstreamConnection) -> None:
        raise NotImplementedError

    def connection_gone(self, address: Address) -> None:
        pass

    def connection_silent(self, address: Address) -> None:
        pass

    def state_changed(self, address: Address) -> None:
        pass


def address(found: Where) -> Address:
    nobody = Nobody()
    return Address(NAME, found, nobody, nobody, shares_connections=True)


def resolved(url: Url, *hosts: str, now: float = 1_000.0) -> None:
    url.resolved(map(where, hosts), now, 30.0, address)


def hosts(addresses: list[Address]) -> list[str]:
    return [each.where.sockaddr[0] for each in addresses]


@pytest.mark.parametrize(
    "host, expected",
    [
        ("127.0.0.2", (socket.AF_INET, ("127.0.0.2", 4317))),
        ("::1", (socket.AF_INET6, ("::1", 4317, 0, 0))),
        ("fe80::1%lo", None),
        ("localhost", None),
    ],
)
def test_an_address_needs_no_resolver(host: str, expected: Where | None) -> None:
    assert literal_address(Target(host, 4317)) == expected


def test_a_name_is_resolved_at_once_then_after_its_interval() -> None:
    url = Url(NAME)
    assert url.is_due(0.0)
    resolved(url, "10.0.0.1", now=1_000.0)
    assert [url.is_due(1_000.0 + passed) for passed in (1, 26, 30)] == [False, False, True]


def test_a_name_is_resolved_soon_when_something_has_happened() -> None:
    url = Url(NAME)
    resolved(url, "10.0.0.1")
    url.hurry()
    assert [url.is_due(1_000.0 + passed) for passed in (0.0, 0.2)] == [False, True]
    resolved(url, "10.0.0.1")
    url.addresses[0].add(MemoryConnection(url.addresses[0], 1, ""), 1_000.0, 2_000.0)
    url.hurry()
    due = [url.is_due(1_000.0 + passed) for passed in (0.2, 1.0)]
    assert due == [False, True], "not so soon while another address serves"


def test_an_address_that_stays_keeps_its_connections() -> None:
    url = Url(NAME)
    resolved(url, "10.0.0.1", "10.0.0.2", "10.0.0.1")
    assert hosts(url.addresses) == ["10.0.0.1", "10.0.0.2"], "each once"
    stays = url.addresses[1]
    resolved(url, "10.0.0.2", "10.0.0.3")
    assert url.addresses[0] is stays
    assert hosts(url.departed) == ["10.0.0.1"]
    assert hosts(url.in_use) == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]


def test_an_address_that_comes_back_is_the_one_that_had_gone() -> None:
    url = Url(NAME)
    resolved(url, "10.0.0.1")
    before = url.addresses[0]
    resolved(url, "10.0.0.2")
    resolved(url, "10.0.0.1")
    assert url.addresses == [before]


def test_a_name_that_cannot_be_resolved_keeps_its_addresses() -> None:
    url = Url(NAME)
    resolved(url, "10.0.0.1")
    url.failed_to_resolve(2_000.0)
    assert hosts(url.addresses) == ["10.0.0.1"]
    assert not url.judge()
    assert [url.is_due(2_000.0 + passed) for passed in (0.5, 1.0)] == [False, True]


def test_a_name_that_leads_nowhere_is_down_until_it_leads_somewhere() -> None:
    url = Url(NAME)
    url.failed_to_resolve(1_000.0)
    assert (url.judge(), url.is_up) == (True, False)
    resolved(url, "10.0.0.1")
    url.addresses[0].add(MemoryConnection(url.addresses[0], 1, ""), 1_000.0, 2_000.0)
    assert (url.judge(), url.is_up) == (True, True)


def test_a_url_is_up_while_one_of_its_addresses_is() -> None:
    url = Url(NAME)
    resolved(url, "10.0.0.1", "10.0.0.2")
    first, second = url.addresses
    first.failed(1_000.0)
    assert not url.judge(), "nobody knows about the second"
    second.failed(1_000.0)
    assert (url.judge(), url.is_up) == (True, False)
    connection = MemoryConnection(second, 1, "")
    second.add(connection, 1_001.0, 2_000.0)
    assert (url.judge(), url.is_up) == (True, True)
    second.doubt(connection)
    second.silent(connection, 1_002.0)
    assert (url.judge(), url.is_up) == (True, False), "the only connection is silent"


def test_an_attempt_that_fails_says_nothing_of_connections_that_work() -> None:
    """A backend may refuse the ninth connection."""
    one = address(where("10.0.0.1"))
    one.add(MemoryConnection(one, 1, ""), 1_000.0, 2_000.0)
    one.failed(1_001.0)
    assert one.is_up is True


def test_a_connection_that_has_answered_counts_again_though_it_is_full() -> None:
    one = address(where("10.0.0.1"))
    connection = MemoryConnection(one, 0, "")
    one.add(connection, 1_000.0, 2_000.0)
    one.doubt(connection)
    assert one.usable == 0
    one.trust(connection)
    assert one.usable == 1


def test_an_address_that_is_down_is_tried_less_often_while_others_serve() -> None:
    one = address(where("10.0.0.1"))
    for _ in range(2):
        one.failed(1_000.0)
    assert one.may_connect(1_000.2, others_serve=False)
    assert not one.may_connect(1_001.0, others_serve=True)
    assert one.may_connect(1_002.0, others_serve=True)
    for _ in range(2_000):
        one.failed(1_000.0)
    assert one.may_connect(1_010.0, others_serve=True)
