"""Listening sockets and descriptors: bound once by control, inherited by every worker.

Uses systemd's sockets where there are some, waits until the workers of a predecessor that died have
released an address, and keeps sockets over reloads. Workers accept connections on them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.config.values import join_address, split_address
from gateway.control.core.port_holders import Holders, find_holders

BACKLOG: Final = 4096
"""Connections that the kernel completes while no worker accepts; net.core.somaxconn caps it."""
BIND_PATIENCE_S: Final = 5.0
"""How long an address may stay in use: the workers of a killed control close theirs at once."""
BIND_RETRY_S: Final = 0.1
LEFTOVER_GRACE_S: Final = 2.0
"""How long the workers of a killed control may take to close their sockets before they hang."""
EndLeftovers = Callable[[Sequence[int]], Awaitable[None]]
"""Ends those of these processes that are hung workers of a killed gateway, and no others."""
SYSTEMD_FIRST_FD: Final = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
DESCRIPTORS_BESIDES: Final = 128
"""Descriptors of a worker that are not for clients: code, channel, counts, listeners, resolver."""

_NO_SUCH_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""What a host without IPv6, or without IPv4, says to an address of it."""

_log = structlog.get_logger("gateway.control")


class BindError(Exception):
    """The gateway cannot listen on an address; the text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket and the configured address that it stands for."""

    address: str
    sock: socket.socket

    @property
    def bound(self) -> str:
        """Its host:port, with the port that the system chose where the configuration says 0."""
        return format_address(self.sock.getsockname())


def format_address(name: tuple[str | int, ...]) -> str:
    """Return a socket's name as host:port, with brackets around IPv6."""
    return join_address(str(name[0]), int(name[1]))


class ListenSockets:
    """The sockets of one purpose, kept by configured address over reloads.

    `inherited` are systemd's, see `take_inherited`; the first address that names one takes it.
    `end_leftovers` is called with the processes that keep an address in use.
    """

    def __init__(
        self,
        inherited: list[socket.socket] | None = None,
        end_leftovers: EndLeftovers | None = None,
    ) -> None:
        self._inherited = inherited if inherited is not None else []
        self._end_leftovers = end_leftovers
        self._held: dict[tuple[str, int], list[BoundSocket]] = {}

    async def bind(
        self,
        addresses: Sequence[str],
        *,
        patience_s: float = BIND_PATIENCE_S,
        on_wait: Callable[[str], None] | None = None,
    ) -> list[list[BoundSocket]]:
        """Return the sockets of each of `addresses`, binding those that are not held yet.

        A name such as localhost may have two. `on_wait` is called once with an address that is
        still in use. Raises `BindError`, and then holds what it held before.
        """
        wanted = _numbered(addresses)
        added: dict[tuple[str, int], list[BoundSocket]] = {}
        try:
            for key in wanted:
                if key not in self._held:
                    added[key] = self._take(key[0]) or await _bind(
                        key[0], patience_s, on_wait, self._end_leftovers
                    )
        except BaseException:
            _close(added)
            raise
        self._held |= added
        return [self._held[key] for key in wanted]

    @property
    def sockets(self) -> list[socket.socket]:
        """All that are held."""
        return [bound.sock for bounds in self._held.values() for bound in bounds]

    def keep_only(self, addresses: Sequence[str]) -> None:
        """Close the sockets of all other addresses; workers that still have them continue."""
        wanted = set(_numbered(addresses))
        _close({key: self._held.pop(key) for key in list(self._held) if key not in wanted})

    def close(self) -> None:
        """Close all."""
        self.keep_only([])

    def _take(self, address: str) -> list[BoundSocket] | None:
        for sock in self._inherited:
            if _is_meant(address, sock):
                self._inherited.remove(sock)
                sock.settimeout(0)
                return [BoundSocket(address, sock)]
        return None


def take_inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Take the listening sockets that systemd passed (sd_listen_fds(3)), if they are for us.

    Removes the variables from `environ`, so that no child takes them for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    taken = []
    for fd in range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + int(count)):
        os.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
        try:
            taken.append(socket.socket(fileno=fd))
        except OSError:
            _log.warning("systemd passed a descriptor that is not a socket; it is ignored", fd=fd)
    return taken


def close_leftover(inherited: list[socket.socket]) -> None:
    """Close systemd's sockets that match no configured address: their clients would hang."""
    for sock in inherited:
        _log.warning(
            "a socket from systemd matches no 'listen' address of the configuration and is closed",
            address=format_address(sock.getsockname()),
        )
        sock.close()
    inherited.clear()


def raise_descriptor_limit() -> int:
    """Raise the soft RLIMIT_NOFILE to the hard one; return what is allowed now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descriptor_shortfall(allowed: int, max_connections: int, workers: int, upstream: int) -> str:
    """Return what to do when `allowed` descriptors per process are too few for the connections.

    `max_connections` is the host's, divided among `workers`; `upstream` is the most connections to
    backends of one worker. Empty when they suffice.
    """
    share = -(-max_connections // workers)
    needed = share + upstream + DESCRIPTORS_BESIDES
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return ""
    return (
        f"{allowed} file descriptors are allowed per process, but limits.max_connections "
        f"{max_connections} on {workers} workers needs {needed}: raise the limit (systemd: "
        f"LimitNOFILE={needed}, shell: ulimit -Hn) or lower limits.max_connections"
    )


def _numbered(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """Number equal addresses: 127.0.0.1:0 may be configured twice."""
    seen: dict[str, int] = {}
    keys = []
    for address in addresses:
        seen[address] = seen.get(address, -1) + 1
        keys.append((address, seen[address]))
    return keys


def _close(held: dict[tuple[str, int], list[BoundSocket]]) -> None:
    for bounds in held.values():
        for bound in bounds:
            bound.sock.close()


def _is_meant(address: str, sock: socket.socket) -> bool:
    """Whether systemd's `sock` has the configured `address`."""
    host, port = split_address(address)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    name = sock.getsockname()
    if name[1] != port:
        return False
    # ListenStream=4317 gives [::]:4317, which takes IPv4 too: any wildcard stands for any other.
    any_host = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    return name[0] == host or (name[0] in any_host and host in any_host)


async def _bind(
    address: str,
    patience_s: float,
    on_wait: Callable[[str], None] | None,
    end_leftovers: EndLeftovers | None,
) -> list[BoundSocket]:
    """Bind `address` (all addresses of its name), waiting while it is in use."""
    infos = await _resolve(address)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            return _bind_all(address, infos)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BindError(_explain(address, error)) from error
            waited = loop.time() - began
            if waited >= patience_s:
                raise BindError(_explain(address, error, await _holders(infos))) from error
        if on_wait is not None:
            on_wait(address)
            on_wait = None  # once is enough
        if end_leftovers is not None and waited >= LEFTOVER_GRACE_S:
            await end_leftovers((await _holders(infos)).pids)
            end_leftovers = None
        await asyncio.sleep(BIND_RETRY_S)


Info = tuple[int, tuple[Any, ...]]
"""Address family and socket name."""


async def _holders(infos: Sequence[Info]) -> Holders:
    return await asyncio.to_thread(find_holders, [name for _, name in infos])


async def _resolve(address: str) -> list[Info]:
    host, port = split_address(address)
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        msg = f"cannot listen on {address}: the host name cannot be resolved ({error.strerror})"
        raise BindError(msg) from error
    return list(dict.fromkeys((int(family), name) for family, _, _, _, name in infos))


def _bind_all(address: str, infos: Sequence[Info]) -> list[BoundSocket]:
    """Bind every address of a name; one without an interface (::1 in an IPv4 host) is left out.

    No host means all addresses: one socket for both versions of IP where the host has IPv6, else
    IPv4's.
    """
    if not split_address(address)[0]:
        return [_bind_first(address, sorted(infos, key=lambda info: info[0] != socket.AF_INET6))]
    bounds: list[BoundSocket] = []
    missing: OSError | None = None
    try:
        for info in infos:
            try:
                bounds.append(BoundSocket(address, _listen(info)))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
    except OSError:
        for bound in bounds:
            bound.sock.close()
        raise
    if not bounds and missing is not None:
        raise missing
    return bounds


def _bind_first(address: str, infos: Sequence[Info]) -> BoundSocket:
    """Bind the first address that this host has the version of IP for."""
    for info in infos[:-1]:
        try:
            return BoundSocket(address, _listen(info))
        except OSError as error:
            if error.errno not in _NO_SUCH_FAMILY:
                raise
    return BoundSocket(address, _listen(infos[-1]))


def _listen(info: Info) -> socket.socket:
    family, name = info
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] takes IPv4 too, as everywhere else in this field.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.settimeout(0)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(address: str, error: OSError, holders: Holders | None = None) -> str:
    """Return why an address cannot be bound, who holds it, and what to do about it."""
    _, port = split_address(address)
    holder = str(holders or "") or "another program"
    advice = {
        errno.EADDRINUSE: f"{holder} listens on it: stop it "
        f"('ss -ltnp sport = :{port}' shows it), or configure another address",
        errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE (systemd: "
        "AmbientCapabilities=CAP_NET_BIND_SERVICE), or configure a higher port",
        errno.EADDRNOTAVAIL: "no network interface of this host has this address",
        errno.EAFNOSUPPORT: "this host lacks that version of IP: configure an address of the other",
    }.get(error.errno or 0, "")
    reason = f"{error.strerror}; {advice}" if advice else error.strerror
    return f"cannot listen on {address}: {reason}"
