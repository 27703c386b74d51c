"""The keys of a worker, and the one decision function over them.

A keyring is *complete*: it holds every key of every snapshot store, so that an unknown digest is a
definite no and costs no look-up. Until the first snapshot has come nothing can be decided. Where a
remote authority is configured it is *partial*: other keys are for `lookups`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.dataplane.credentials import Credential
from gateway.model import Denied, KeyEntry, KeyState, Principal, Undecided, Verdict

_CANNOT_TELL = Undecided()
NOT_HERE: Final = Undecided()
"""The verdict of a partial keyring on a key that it does not hold; compared by identity."""
_UNKNOWN = Denied("KEY_UNKNOWN")
_MISTYPED = Denied("KEY_TYPO")
_NOT_ACTIVE: Final[dict[int, str]] = {
    KeyState.REVOKED: "KEY_REVOKED",
    KeyState.DISABLED: "KEY_DISABLED",
}


class Keyring:
    """Digest → principal, with the store's revision that it equals."""

    def __init__(self, *, is_partial: bool = False) -> None:
        self.is_partial = is_partial
        """Whether a remote authority may know keys that are not here."""
        self.is_loaded = False
        self.is_complete = False
        self.revision = -1
        self._keys: dict[bytes, Principal] = {}
        self._loading: dict[bytes, Principal] = {}

    def __len__(self) -> int:
        """Count the keys, tombstones included."""
        return len(self._keys)

    def load(
        self,
        entries: Iterable[KeyEntry],
        revision: int,
        *,
        first: bool,
        last: bool,
        complete: bool = True,
    ) -> None:
        """Take a part of a snapshot; with the last one the whole takes effect at once.

        Unless it is `complete` nobody can tell of an unknown key whether it exists.
        """
        if first:
            self._loading = {}
        self._loading.update(entries)
        if last:
            self._keys, self._loading = self._loading, {}
            self.revision = revision
            self.is_loaded = True
            self.is_complete = complete

    def apply(
        self,
        upserts: Iterable[KeyEntry],
        removals: Iterable[bytes],
        revision: int,
        *,
        last: bool = True,
        complete: bool = True,
    ) -> None:
        """Apply changes up to `revision`; what is older than the keyring is thrown away.

        A large change comes in parts: the keyring has its revision with the last one.
        """
        if revision <= self.revision:
            return
        self._keys.update(upserts)
        for digest in removals:
            self._keys.pop(digest, None)
        if last:
            self.revision = revision
            self.is_complete = complete

    def decide(  # noqa: PLR0911 - one return for each verdict is how it reads best
        self, credential: Credential, signal: int, now_ms: int
    ) -> Verdict:
        """Decide whether the key may send a signal (a bit of `Signal.bit`) now (Unix time in ms).

        The one decision function for all protocols. It never waits.
        """
        digest = credential.digest
        if digest is None:
            return Denied(credential.refusal)
        principal = self._keys.get(digest)
        if principal is None:
            if self.is_partial and self.is_loaded:
                return NOT_HERE
            if not self.is_complete:
                return _CANNOT_TELL
            return _MISTYPED if credential.is_mistyped else _UNKNOWN
        if principal.state:
            return Denied(_NOT_ACTIVE[principal.state], principal)
        if principal.expires_at_ms and principal.expires_at_ms <= now_ms:
            return Denied("KEY_EXPIRED", principal)
        if not principal.signals & signal:
            return Denied("SIGNAL_NOT_ALLOWED", principal)
        return principal
