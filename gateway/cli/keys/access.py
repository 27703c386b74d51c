"""The seam between the commands of `gateway keys` and the two ways to keys: a store, or the API.

Keys are members of the API's JSON (`IngestionApiKey`), whichever the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from gateway.control.admin.api.key_filter import KeyFilter
from gateway.keys.api_key import ApiKey
from gateway.keys.store import KeySpec, KeyUpdate

Members = dict[str, Any]
"""A key, or an entry of the audit log, as JSON has it."""

STANDBYS: Final = (
    "; gateways that read from a standby of the database, if there are any, cannot be asked: they"
    " follow within 5 s"
)


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

    def usage(self, parameters: Mapping[str, Any]) -> list[Members]:
        """Return rows of usage (`KeyUsageRow`); `parameters` are those of the API."""
