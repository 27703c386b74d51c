"""`gateway keys import`: many keys at once, into a store or a running gateway.

An import checks the whole file first, and tells all that is wrong with it. Then it stores the keys
in batches, each of them whole or not at all: what was interrupted goes on when it is run again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.cli.keys.access import ImportOutcome, KeyAccess
from gateway.cli.keys.bulk_file import Read
from gateway.keys.commands import check_import
from gateway.keys.errors import InvalidInputError, KeyRefusedError
from gateway.keys.importing import InvalidBatchError
from gateway.keys.store import ImportedKey, KeySpec
from gateway.keys.stores.file_entries import Entry
from gateway.keys.times import now_unix_ms

_MOST_ERRORS: Final = 1_000


def bring_in(keys: KeyAccess, read: Read, *, is_dry_run: bool) -> ImportOutcome:
    """Store the keys of a file that are not there yet; `is_dry_run`: only say what would be.

    Raises `InvalidInputError` with everything that is wrong, each with its line.
    """
    checked = _checked(read)
    lines = list(checked)
    with _progress(len(checked)) as advance:
        try:
            return keys.bring_in(list(checked.values()), advance, is_dry_run=is_dry_run)
        except InvalidBatchError as error:
            raise _told({lines[place]: text for place, text in error.errors.items()}) from error


def _checked(read: Read) -> dict[int, ImportedKey]:
    errors = dict(read.errors)
    checked: dict[int, ImportedKey] = {}
    now_ms = now_unix_ms()
    for line, entry in read.entries.items():
        try:
            checked[line] = check_import(_imported(entry), now_ms)
        except (InvalidInputError, KeyRefusedError) as error:
            errors.setdefault(line, str(error))
    if errors:
        raise _told(errors)
    return checked


def _imported(entry: Entry) -> ImportedKey:
    spec = KeySpec(
        entry.name,
        entry.description,
        entry.expires_at_ms,
        entry.signals,
        entry.limits,
        entry.tenancy,
    )
    return ImportedKey(entry.digest, spec, entry.id, entry.enabled)


def _told(errors: dict[int, str]) -> InvalidInputError:
    lines = [f"line {line}: {text}" for line, text in sorted(errors.items())]
    more = len(lines) - _MOST_ERRORS
    shown = lines[:_MOST_ERRORS] + ([f"and {more} more"] if more > 0 else [])
    return InvalidInputError("\n".join(shown))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal while keys are stored."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Importing", total=total)
        yield lambda count: progress.advance(task, count)
