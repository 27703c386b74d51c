"""Who listens on an address that is in use, as far as the kernel tells (proc_pid_net(5))."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.control.core.processes import PROC, name_of

_TABLES: Final = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))
_LISTENING: Final = "0A"
_WORD: Final = 8
"""Hexadecimal digits of a 32-bit word, which the kernel writes in its own byte order."""
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_MOST_NAMED: Final = 5


class Holders(NamedTuple):
    """Who holds an address."""

    pids: tuple[int, ...]
    """The processes that have the listening sockets open, as far as they can be seen."""
    users: tuple[int, ...]
    """The users whose sockets they are."""

    def __str__(self) -> str:
        """Name them, for an error; empty: nothing is known."""
        if self.pids:
            named = [f"pid {pid} ({name_of(pid) or 'unknown'})" for pid in self.pids[:_MOST_NAMED]]
            more = len(self.pids) - len(named)
            return ", ".join(named) + (f" and {more} more" if more else "")
        return ", ".join(f"a process of the user with uid {user}" for user in self.users)


def find_holders(names: Iterable[tuple[Any, ...]]) -> Holders:
    """Return who listens where these socket names (host, port, …) cannot be bound. Reads all of
    `/proc`: not for the event loop.
    """
    wanted = {(str(name[0]), int(name[1])) for name in names}
    found = {inode: user for where, inode, user in _listening() if _conflicts(where, wanted)}
    links = {f"socket:[{inode}]" for inode in found}
    pids = [pid for pid in _pids() if _has_open(pid, links)] if links else []
    return Holders(tuple(sorted(pids)), tuple(sorted(set(found.values()))))


def _conflicts(where: tuple[str, int], wanted: set[tuple[str, int]]) -> bool:
    host, port = where
    return any(
        port == other_port and (host == other or not _WILDCARDS.isdisjoint((host, other)))
        for other, other_port in wanted
    )


def _listening() -> Iterator[tuple[tuple[str, int], str, int]]:
    """Yield address, inode and user of all listening TCP sockets."""
    for table, family in _TABLES:
        try:
            lines = (PROC / "self/net" / table).read_text().splitlines()[1:]
        except OSError:
            continue  # no /proc, or no such version of IP
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield _address(fields[1], family), fields[9], int(fields[7])


def _address(text: str, family: int) -> tuple[str, int]:
    digits, _, port = text.partition(":")
    words = (digits[at : at + _WORD] for at in range(0, len(digits), _WORD))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(family, packed), int(port, 16)


def _pids() -> Iterator[int]:
    try:
        names = [path.name for path in PROC.iterdir()]
    except OSError:
        return
    yield from (int(name) for name in names if name.isdecimal())


def _has_open(pid: int, links: set[str]) -> bool:
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False  # another user's, or gone meanwhile
    return any(_target(path) in links for path in descriptors)


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
