"""Which keys `gateway keys list` shows, in what order, and how on a terminal."""

from __future__ import annotations

import enum
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from gateway.cli.keys.access import Members
from gateway.terminal import escaped

_NEVER: Final = 2**63


class Status(enum.StrEnum):
    """What becomes of a key's requests now."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"


class Sort(enum.StrEnum):
    """What a list is sorted by."""

    NAME = "name"
    OWNER = "owner"
    EXPIRATION = "expiration"
    LAST_USED = "last-used"


def status_of(key: Members, now_ms: int) -> Status:
    """Tell a key's status; what is disabled is that, expired or not."""
    if not key.get("enabled", True):
        return Status.DISABLED
    expires = key.get("expiration")
    return Status.ACTIVE if expires is None or expires > now_ms else Status.EXPIRED


def chosen(
    keys: Iterable[Members], status: Status | None, search: str | None, now_ms: int
) -> list[Members]:
    """Return the keys with this status, with this text in their name or description."""
    wanted = (search or "").casefold()
    return [
        key
        for key in keys
        if (status is None or status_of(key, now_ms) is status)
        and wanted in f"{key['name']}\n{key.get('description') or ''}".casefold()
    ]


def in_order(keys: Sequence[Members], by: Sort) -> list[Members]:
    """Sort keys that are sorted by name; those that have no such value come last."""
    return sorted(keys, key=_ORDERS[by])


_ORDERS: Final[dict[Sort, Callable[[Members], Any]]] = {
    Sort.NAME: lambda _: 0,
    Sort.OWNER: lambda key: (not key.get("owner"), (key.get("owner") or "").casefold()),
    Sort.EXPIRATION: lambda key: key.get("expiration") or _NEVER,
    Sort.LAST_USED: lambda key: -(key.get("lastUsedTimestamp") or 0),
}


def fitted(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return the lines of a table that fits the terminal, or `width`; long cells go on below.

    Columns without a value are left out.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, *body = rows
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="")
    kept = [place for place in range(len(head)) if any(row[place] != "-" for row in body)]
    for place in kept:
        table.add_column(head[place], overflow="fold", no_wrap=place == 0)
    for row in body:
        table.add_row(*(Text(escaped(row[place])) for place in kept))
    page = io.StringIO()
    console = Console(file=page, width=width or shutil.get_terminal_size().columns)
    console.print(table)
    return [line.rstrip() for line in page.getvalue().splitlines()]
