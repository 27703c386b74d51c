"""Who is at the other end of a connection: addresses as text, their networks, whom to believe."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.dataplane.core.memo import Memo

_HOSTS: Final = 1_000
_V4_NETWORK: Final = 24
_V6_CLIENT_BITS: Final = 64
"""The smallest IPv6 network of one customer."""
_V6_NETWORK: Final = 48
UNKNOWN: Final = "unknown"
"""The peer of a connection that was gone before its address could be asked for."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(host: str) -> Address | None:
    """Read an IP address; a dual-stack socket's IPv4-mapped one as IPv4. None if it is none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def describe(host: str, port: int) -> str:
    """Write a peer as logs show it: host:port, with brackets around IPv6."""
    address = parse(host)
    if address is None:
        return UNKNOWN
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def host_of(peer: str) -> str:
    """Return the address in what `describe` wrote."""
    return peer.rpartition(":")[0].removeprefix("[").removesuffix("]")


def network_of(peer: str) -> str:
    """Return the network that refusals of `peer` are summed up by: /24 of IPv4, /48 of IPv6."""
    address = parse(host_of(peer))
    if address is None:
        return UNKNOWN
    bits = _V4_NETWORK if address.version == 4 else _V6_NETWORK
    return str(ipaddress.ip_network((address, bits), strict=False))


def client_of(peer: str) -> str:
    """Return what counts as one client: an IPv4 address, a /64 of IPv6."""
    address = parse(host_of(peer))
    if isinstance(address, ipaddress.IPv6Address):
        rest = 128 - _V6_CLIENT_BITS
        return str(ipaddress.IPv6Address(int(address) >> rest << rest))
    return str(address) if address is not None else UNKNOWN


@dataclass(frozen=True, slots=True)
class Host:
    """An address that a connection came from: as `describe` writes it, without the port; which
    client it is; and whether its word about somebody else's address is believed.
    """

    text: str
    client: str
    is_trusted: bool

    def peer(self, port: int) -> str:
        """Return what `describe` writes."""
        return f"{self.text}:{port}" if self.text else UNKNOWN


class TrustedNetworks:
    """`trusted_networks`: whose word about somebody else's address is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, peer: object) -> bool:
        """Whether `peer`, as written by `describe`, is in one of the networks."""
        address = parse(host_of(peer)) if isinstance(peer, str) else None
        return address is not None and any(address in network for network in self._networks)


class Hosts:
    """Addresses that connections came from, remembered: reading one takes as long as accepting."""

    def __init__(self, trusted: TrustedNetworks) -> None:
        self._trusted = trusted
        self._known: Memo[str, Host] = Memo(_HOSTS)

    def of(self, host: str) -> Host:
        """Return what is known of an IP address, or of what is none."""
        known = self._known.kept.get(host)
        if known is None:
            peer = describe(host, 0)
            known = Host(peer.rpartition(":")[0], client_of(peer), peer in self._trusted)
            self._known.add(host, known)
        return known
