"""Processes that nobody waits for any more: process 1 inherits them and must read how they ended.

Until then each keeps a place in the table of processes. In a container the gateway is often
process 1, and what probes and hooks leave behind becomes its child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_EACH_S: Final = 1.0
_PROC: Final = Path("/proc")
_INIT: Final = 1


async def reap_orphans() -> None:
    """Read the ends of orphans for as long as this runs, if this is process 1. Never returns.

    An own child is read by whoever started it, at once; what is dead at two looks is an orphan.
    """
    if os.getpid() != _INIT:
        await asyncio.Event().wait()
    seen: set[int] = set()
    while True:
        await asyncio.sleep(_EACH_S)
        dead = set(_dead_children())
        for pid in dead & seen:
            _read_end(pid)
        seen = dead - seen


def _read_end(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # somebody else has read it meanwhile
        os.waitpid(pid, os.WNOHANG)


def _dead_children() -> Iterator[int]:
    """Yield the children that have ended and were not waited for."""
    for folder in _PROC.glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_bytes()
        except OSError:
            continue  # gone meanwhile
        # proc_pid_stat(5): "pid (name) state ppid …", where the name may hold anything.
        state, parent = stat[stat.rindex(b")") + 2 :].split(b" ", 2)[:2]
        if state == b"Z" and int(parent) == os.getpid():
            yield int(folder.name)
