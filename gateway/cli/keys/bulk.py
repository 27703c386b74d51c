"""`gateway keys import` and `export`: many keys at once, on a store.

An import checks the whole file first, and tells all that is wrong with it. Then it stores the keys
in batches, each of them whole or not at all: what was interrupted goes on when it is run again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.cli.keys.bulk_file import Read
from gateway.cli.keys.place import Place, access
from gateway.cli.keys.stored_keys import StoredKeys
from gateway.keys.commands import KeyCommands
from gateway.keys.errors import InvalidInputError, KeyRefusedError
from gateway.keys.store import ImportedKey, KeySpec
from gateway.keys.stores.file_entries import Entry

BATCH: Final = 500
"""Keys that are stored at once, or none of them."""
_MOST_ERRORS: Final = 1_000


@dataclass(slots=True)
class Outcome:
    """What became of the keys of a file."""

    imported: int = 0
    existing: int = 0
    deleted: int = 0
    """They were deleted in this store, and stay so."""


def stored(place: Place) -> StoredKeys:
    """Find the store. Raises `InvalidInputError` where the options name a gateway instead."""
    keys = access(place)
    if not isinstance(keys, StoredKeys):
        msg = "this works on the store itself: give --config or --data instead of --url"
        raise InvalidInputError(msg)
    return keys


def bring_in(keys: StoredKeys, read: Read, *, is_dry_run: bool) -> Outcome:
    """Store the keys of a file that are not there yet; `is_dry_run`: only say what would be.

    Raises `InvalidInputError` with everything that is wrong, each with its line.
    """
    outcome = Outcome()

    async def run(commands: KeyCommands) -> int:
        revision = 0
        checked = _checked(commands, read)
        with _progress(len(checked)) as advance:
            for batch in _batches(list(checked)):
                new = await _not_known(commands, batch, checked, outcome)
                if new and not is_dry_run:
                    records = await commands.add_all(new)
                    outcome.imported += len(records)
                    outcome.existing += len(new) - len(records)
                    revision = records[-1].revision if records else revision
                elif new:
                    outcome.imported += len(new)
                advance(len(batch))
        return revision

    keys.bring_in(run, create=not is_dry_run)
    return outcome


def _checked(commands: KeyCommands, read: Read) -> dict[int, ImportedKey]:
    errors = dict(read.errors)
    checked: dict[int, ImportedKey] = {}
    for line, entry in read.entries.items():
        try:
            checked[line] = commands.check_import(_imported(entry))
        except (InvalidInputError, KeyRefusedError) as error:
            errors.setdefault(line, str(error))
    if errors:
        raise _told(errors)
    return checked


async def _not_known(
    commands: KeyCommands, batch: Sequence[int], keys: dict[int, ImportedKey], outcome: Outcome
) -> list[ImportedKey]:
    """Return the keys of a batch that the store does not know, and count the others."""
    known = await commands.known([keys[line] for line in batch])
    by_digest = {record.digest: record for record in known}
    ids = {record.id for record in known}
    new: list[ImportedKey] = []
    errors: dict[int, str] = {}
    for line in batch:
        key = keys[line]
        record = by_digest.get(key.digest)
        if record is not None:
            outcome.deleted += record.deleted_at_ms is not None
            outcome.existing += record.deleted_at_ms is None
        elif key.id in ids:
            errors[line] = f"the id {key.id} is another key's: leave it out"
        else:
            new.append(key)
    if errors:
        raise _told(errors)
    return new


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


def _batches(lines: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(lines), BATCH):
        yield lines[start : start + BATCH]


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
