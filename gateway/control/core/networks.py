"""Which addresses count as one client where something is counted per client."""

from __future__ import annotations

import ipaddress
from typing import Final

_IPV6_NETWORK: Final = 64
"""The smallest IPv6 network of one customer: all addresses in it count as one."""


def network_of(remote: str) -> str:
    """Return what counts as one client: an IPv4 address, a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if ip.version == 4:  # noqa: PLR2004 - IPv4
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK), strict=False))
