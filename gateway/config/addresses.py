"""Whether two addresses overlap, and whether an address is this machine's own. Needs no network."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOPBACK_NAMES: Final = {"localhost", "localhost.localdomain", "ip6-localhost"}
_ALL: Final = {"", "::"}
"""Hosts that stand for every address, IPv4's too: control binds `[::]` for both."""


def as_ip(host: str) -> IpAddress | None:
    """Read an IP address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    ip = as_ip(host)
    return ip.is_loopback if ip is not None else host in _LOOPBACK_NAMES


def is_overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two listening addresses cannot both be bound. Port 0 is always a free one."""
    (host, port), (other_host, other_port) = one, other
    if port != other_port or port == 0:
        return False
    return _covers(host, other_host) or _covers(other_host, host) or _is_same_host(host, other_host)


def _covers(wide: str, host: str) -> bool:
    if wide in _ALL:
        return True
    ip = as_ip(host)
    return wide == "0.0.0.0" and (ip is None or ip.version == 4)  # noqa: S104, PLR2004 - compared, IPv4


def _is_same_host(one: str, other: str) -> bool:
    # localhost is bound as 127.0.0.1 and ::1; other loopback addresses (127.0.0.2) are their own.
    names = {"127.0.0.1", "::1", *_LOOPBACK_NAMES}
    is_name = one in _LOOPBACK_NAMES or other in _LOOPBACK_NAMES
    return one == other or (is_name and one in names and other in names)


def is_reached_by(listen: tuple[str, int], target: tuple[str, int]) -> bool:
    """Whether a connection to `target` would arrive at the listening address `listen`."""
    (host, port), (target_host, target_port) = listen, target
    if port != target_port or port == 0:
        return False
    target_ip = as_ip(target_host)
    if target_ip is not None and target_ip.is_unspecified:  # connects to this machine
        return True
    if _is_same_host(host, target_host):
        return True
    return _covers(host, target_host) and is_own(target_host)


def is_own(host: str) -> bool:
    """Whether `host` is this machine. Names are compared, not resolved."""
    if is_loopback(host) or host in {"", "::", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        return True
    ip = as_ip(host)
    if ip is None:
        own = socket.gethostname().lower()
        return host in {own, own.partition(".")[0]}
    return _is_bindable(ip)


def _is_bindable(ip: IpAddress) -> bool:
    """Ask the kernel: only this machine's own addresses can be bound. Nothing is sent."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError:
        return False
    return True
