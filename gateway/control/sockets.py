"""Listening sockets and descriptors: bound once by control, inherited by every worker.

Takes systemd's sockets where they are given, waits for the workers of a predecessor that died to
let go of an address, and keeps sockets over reloads. What is accepted on them is the workers'
business.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.config.values import join_address, split_address

BACKLOG: Final = 4096
"""Connections that the kernel completes while no worker accepts; net.core.somaxconn caps it."""
BIND_PATIENCE_S: Final = 5.0
"""How long an address may stay in use: the workers of a killed control close theirs at once."""
BIND_RETRY_S: Final = 0.1
SYSTEMD_FIRST_FD: Final = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
DESCRIPTORS_BESIDES: Final = 128
"""Descriptors of a worker that are no client's: code, channel, counts, listeners, resolver."""

_log = structlog.get_logger("gateway.control")


class BindError(Exception):
    """An address that cannot be listened on; the text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket and the configured address that it stands for."""

    address: str
    sock: socket.socket

    @property
    def bound(self) -> str:
        """host:port that it really has, where the configuration may say port 0."""
        return format_address(self.sock.getsockname())


def format_address(name: tuple[str | int, ...]) -> str:
    """Write a socket's name as host:port, with brackets around IPv6."""
    return join_address(str(name[0]), int(name[1]))


class ListenSockets:
    """The sockets of one purpose, kept by configured address over reloads.

    `inherited` are systemd's, see `take_inherited`; the first address that names one takes it.
    """

    def __init__(self, inherited: list[socket.socket] | None = None) -> None:
        self._inherited = inherited if inherited is not None else []
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
                    added[key] = self._take(key[0]) or await _bind(key[0], patience_s, on_wait)
        except BaseException:
            _close(added)
            raise
        self._held |= added
        return [self._held[key] for key in wanted]

    def keep_only(self, addresses: Sequence[str]) -> None:
        """Close the sockets of all other addresses; workers that still have them go on."""
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
    """Take the listening sockets that systemd handed over (sd_listen_fds(3)), if they are for us.

    Removes the variables from `environ`, so that no child believes them to be its own.
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
            _log.warning("systemd handed over what is no socket: it is left alone", fd=fd)
    return taken


def close_leftover(inherited: list[socket.socket]) -> None:
    """Close systemd's sockets that no configured address names: their clients would hang."""
    for sock in inherited:
        _log.warning(
            "a socket from systemd is in no 'listen' address of the configuration: closed it",
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
    """Say what is missing when `allowed` descriptors per process cannot carry the connections.

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
    """Give each address its how-manieth: 127.0.0.1:0 may stand there twice."""
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
    """Whether systemd's `sock` is what the configuration calls `address`."""
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
    address: str, patience_s: float, on_wait: Callable[[str], None] | None
) -> list[BoundSocket]:
    """Bind `address` (all addresses of its name), waiting while it is in use."""
    infos = await _resolve(address)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            return _bind_all(address, infos)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or loop.time() >= deadline:
                raise BindError(_explain(address, error)) from error
        if on_wait is not None:
            on_wait(address)
            on_wait = None  # once says it
        await asyncio.sleep(BIND_RETRY_S)


Info = tuple[int, tuple[Any, ...]]
"""Address family and socket name."""


async def _resolve(address: str) -> list[Info]:
    host, port = split_address(address)
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        msg = f"cannot listen on {address}: the host name cannot be resolved ({error.strerror})"
        raise BindError(msg) from error
    if not host:  # one dual-stack socket where the host has IPv6, else IPv4's
        infos = sorted(infos, key=lambda info: info[0] != socket.AF_INET6)[:1]
    return list(dict.fromkeys((int(family), name) for family, _, _, _, name in infos))


def _bind_all(address: str, infos: Sequence[Info]) -> list[BoundSocket]:
    """Bind every address of a name; one without an interface (::1 in an IPv4 host) is left out."""
    bounds: list[BoundSocket] = []
    missing: OSError | None = None
    try:
        for info in infos:
            try:
                bounds.append(BoundSocket(address, _listen(info)))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
    except OSError:
        for bound in bounds:
            bound.sock.close()
        raise
    if not bounds and missing is not None:
        raise missing
    return bounds


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


def _explain(address: str, error: OSError) -> str:
    """Say what to do about an address that cannot be bound."""
    _, port = split_address(address)
    advice = {
        errno.EADDRINUSE: "another program listens there: stop it "
        f"('ss -ltnp sport = :{port}' shows it), or configure another address",
        errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE (systemd: "
        "AmbientCapabilities=CAP_NET_BIND_SERVICE), or configure a higher port",
        errno.EADDRNOTAVAIL: "no network interface of this host has this address",
        errno.EAFNOSUPPORT: "this host has no IPv6: configure an IPv4 address",
    }.get(error.errno or 0, "")
    reason = f"{error.strerror}; {advice}" if advice else error.strerror
    return f"cannot listen on {address}: {reason}"
