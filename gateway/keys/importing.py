"""Bringing many keys into a store: what of a batch is new there, and storing that.

`gateway keys import` uses it on a store, the management API in a running gateway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.keys.commands import KeyCommands
from gateway.keys.errors import InvalidInputError
from gateway.keys.record import KeyRecord
from gateway.keys.store import ImportedKey


class InvalidBatchError(InvalidInputError):
    """What is wrong with the keys of a batch, by their places in it. Nothing was stored."""

    def __init__(self, errors: Mapping[int, str]) -> None:
        self.errors = dict(errors)
        super().__init__("; ".join(f"keys[{place}]: {text}" for place, text in errors.items()))

    def moved(self, by: int) -> InvalidBatchError:
        """Return the same error of a list in which the batch begins at the place `by`."""
        return InvalidBatchError({place + by: text for place, text in self.errors.items()})


@dataclass(slots=True)
class Imported:
    """What became of a batch."""

    records: list[KeyRecord] = field(default_factory=list)
    """Those that were stored."""
    new: int = 0
    """Those that were stored, or would have been."""
    existing: int = 0
    deleted: int = 0
    """They were deleted in this store, and stay so."""


async def import_batch(
    commands: KeyCommands, keys: Sequence[ImportedKey], *, is_dry_run: bool
) -> Imported:
    """Store those of some checked keys that the store does not know, all or none.

    Raises `InvalidBatchError`, `StoreError`.
    """
    known = await commands.known(keys)
    by_digest = {record.digest: record for record in known}
    ids = {record.id for record in known}
    outcome = Imported()
    new: list[ImportedKey] = []
    errors: dict[int, str] = {}
    for place, key in enumerate(keys):
        record = by_digest.get(key.digest)
        if record is not None:
            outcome.deleted += record.deleted_at_ms is not None
            outcome.existing += record.deleted_at_ms is None
        elif key.id in ids:
            errors[place] = f"the id {key.id} is another key's: leave it out"
        else:
            new.append(key)
    if errors:
        raise InvalidBatchError(errors)
    outcome.new = len(new)
    if new and not is_dry_run:
        outcome.records = await commands.add_all(new)
        outcome.new = len(outcome.records)
        outcome.existing += len(new) - len(outcome.records)
    return outcome
