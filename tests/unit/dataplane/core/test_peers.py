from __future__ import annotations

import pytest

from gateway.dataplane.core import peers


@pytest.mark.parametrize(
    "host,port,text",
    [
        ("192.0.2.1", 1, "192.0.2.1:1"),
        ("2001:db8::1", 443, "[2001:db8::1]:443"),
        ("::ffff:192.0.2.1", 5, "192.0.2.1:5"),
        ("fe80::1%eth0", 5, "[fe80::1]:5"),
        ("", 0, peers.UNKNOWN),
        ("/run/socket", 0, peers.UNKNOWN),
    ],
)
def test_a_peer_is_written_as_address_and_port(host: str, port: int, text: str) -> None:
    assert peers.describe(host, port) == text


@pytest.mark.parametrize(
    "peer,network",
    [
        ("192.0.2.77:1", "192.0.2.0/24"),
        ("[2001:db8:1:2::3]:1", "2001:db8:1::/48"),
        (peers.UNKNOWN, peers.UNKNOWN),
    ],
)
def test_a_peers_network(peer: str, network: str) -> None:
    assert peers.network_of(peer) == network


def test_a_peer_is_trusted_when_it_is_in_one_of_the_networks() -> None:
    trusted = peers.TrustedNetworks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.5"])
    assert "10.200.0.1:1" in trusted
    assert "[2001:db8::9]:1" in trusted
    assert "192.0.2.5:1" in trusted
    assert "192.0.2.6:1" not in trusted
    assert peers.UNKNOWN not in trusted
    assert "10.0.0.1:1" not in peers.TrustedNetworks([])
