"""What the kernel says about processes, where there is a `/proc` (proc(5)); else nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
_ENDED: Final = (b"Z", b"X", b"x")
"""States of a process that has ended and is not waited for yet."""
_STARTED: Final = 19
"""Where the start time stands behind the name, counted from the state."""
_DELETED: Final = " (deleted)"


class ProcessId(NamedTuple):
    """One process, and none that gets its number later: until the next boot of the machine."""

    pid: int
    started: int
    """Clock ticks from the boot to its start."""


def identify(pid: int) -> ProcessId | None:
    """Return which process has this number now; None: none that runs, or it cannot be known."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # "pid (name) state ppid …", where the name may hold anything.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in _ENDED else ProcessId(pid, int(fields[_STARTED]))


def boot_id() -> str:
    """Return what tells this boot of the machine from all others; empty: it cannot be known."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def user_of(pid: int) -> int | None:
    """Return the user id of a process."""
    try:
        return (PROC / str(pid)).stat().st_uid
    except OSError:
        return None


def program_of(pid: int) -> str:
    """Return the file that a process executes; empty: it cannot be known."""
    try:
        return str((PROC / str(pid) / "exe").readlink()).removesuffix(_DELETED)
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """Return the name of a process, of at most 15 characters; empty: it cannot be known."""
    try:
        text = (PROC / str(pid) / "comm").read_text(errors="replace")
    except OSError:
        return ""
    return text.strip()


def arguments_of(pid: int) -> list[str]:
    """Return the command line of a process; it may hold secrets, and is not for logs."""
    try:
        line = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return line.decode(errors="replace").split("\0")
