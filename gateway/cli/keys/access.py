"""The seam between the commands of `gateway keys` and the two ways to keys: a store, or the API.

Keys are members of the API's JSON (`IngestionApiKey`), whichever the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.control.admin.api.key_filter import KeyFilter
from gateway.keys.api_key import ApiKey
from gateway.keys.record import KeyRecord
from gateway.keys.store import ImportedKey, KeySpec, KeyUpdate

if TYPE_CHECKING:  # it needs yaml, which most commands do without
    from gateway.keys.stores.file_entries import Entry

Members = dict[str, Any]
"""A key, or an entry of the audit log, as JSON has it."""

STANDBYS: Final = (
    "; gateways that read from a standby of the database, if there are any, cannot be asked: they"
    " follow within 5 s"
)


BATCH: Final = 500
"""Keys of an import that are stored at once, or none of them."""


@dataclass(slots=True)
class ImportOutcome:
    """What became of the keys of an import."""

    imported: int = 0
    existing: int = 0
    deleted: int = 0
    """They were deleted in this store, and stay so."""

    def add(self, imported: int, existing: int, deleted: int) -> None:
        """Add what became of a batch."""
        self.imported += imported
        self.existing += existing
        self.deleted += deleted


class KeyAccess(Protocol):
    """What can be done with keys. Every method raises `KeysError`."""

    def create(self, spec: KeySpec, adopted: ApiKey | None) -> Members:
        """Make a key, or take over `adopted`. A new one stands under `apiKey`, an adopted not."""

    def list_keys(self, chosen: KeyFilter) -> list[Members]:
        """Return the keys that are `chosen`, by name, then age."""

    def update(self, key_id: int, update: KeyUpdate) -> Members:
        """Change a key."""

    def rotate(self, key_id: int, overlap_ms: int, expires_at_ms: int | None) -> Members:
        """Make a successor; the old key stands under `predecessor`."""

    def delete(self, key_id: int) -> None:
        """Delete a key."""

    def audit(self, limit: int, key_id: int | None) -> list[Members]:
        """Return the newest entries of the audit log, newest first."""

    def export(self) -> Sequence[KeyRecord | Entry]:
        """Return all keys that are not deleted, by name, with their digests."""

    def whose(self, key: ApiKey) -> Members:
        """Return whose key it is."""

    def bring_in(
        self, keys: Sequence[ImportedKey], advance: Callable[[int], None], *, is_dry_run: bool
    ) -> ImportOutcome:
        """Store checked keys that are not there yet, in batches; `advance` gets the size of each.

        Raises `InvalidBatchError` with places in `keys`.
        """

    def usage(self, parameters: Mapping[str, Any]) -> list[Members]:
        """Return rows of usage (`KeyUsageRow`); `parameters` are those of the API."""
