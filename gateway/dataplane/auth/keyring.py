"""The keys of a worker, and the one decision function over them.

A keyring is *complete*: it holds every key of every snapshot store, so that an unknown digest is a
definite no and costs no look-up. Until the first snapshot has come nothing can be decided. Where a
remote authority is configured it is *partial*: other keys are for `lookups`.

A million keys must neither fill a worker nor hold up its requests. So of an ordinary key (active,
no expiry, every signal, no name) only the id is kept, a string: 200 bytes with the digest, where a
`Principal` made 300. Of others all is kept, packed. Garbage collections walk neither strings nor
bytes nor dicts of nothing else; they did walk a million keys, for 50 ms, when one was deleted after
many had come. A `Principal` is made when its key is used, and those in use are remembered.

Tokens of identity providers are in no store. Those that control has allowed stand among the
principals in use until they expire, so that their requests cost what those with keys do.

And keys are spread over many small dicts: one of 1.4 million keys takes 90 ms to grow, in the
middle of a change; each of these takes less than a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.heads import FieldKinds
from gateway.model import Denied, KeyEntry, KeyState, Principal, Undecided, Verdict

_SHARDS: Final = 256
"""By a digest's first byte."""
MAX_REMEMBERED: Final = 20_000
"""Principals of keys in use: 4 MB. Forgetting them all at once takes a millisecond."""
_CANNOT_TELL = Undecided()
NOT_HERE: Final = Undecided()
"""The verdict of a partial keyring on a key that it does not hold, and of any on a token; compared
by identity.
"""
_NOT_ACTIVE: Final[dict[int, str]] = {
    KeyState.REVOKED: "KEY_REVOKED",
    KeyState.DISABLED: "KEY_DISABLED",
}
_ORDINARY: Final = Principal("")[1:]

_Shards = list[dict[bytes, str | bytes]]
"""Digest → the id of an ordinary key, or a packed `Principal`."""

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(Principal).decode


class Keyring:
    """Digest → principal, with the store's revision that it equals."""

    def __init__(self, kinds: FieldKinds | None = None, *, is_partial: bool = False) -> None:
        """`kinds` is told the headers that keys have: no caller may state them."""
        self._kinds = kinds
        self.is_partial = is_partial
        """Whether a remote authority may know keys that are not here."""
        self.is_loaded = False
        self.is_complete = False
        self.revision = -1
        self._keys = _empty()
        self._loading = _empty()
        self._in_use: dict[bytes, Principal] = {}
        """Of keys that are in `_keys`, and as they are there; and of tokens."""

    def __len__(self) -> int:
        """Count the keys, tombstones included."""
        return sum(map(len, self._keys))

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
            self._loading = _empty()
        self._put(self._loading, entries)
        if last:
            self._keys, self._loading = self._loading, _empty()
            self._in_use.clear()
            self.revision = revision
            self.is_loaded = True
            self.is_complete = complete

    def apply(
        self,
        upserts: Sequence[KeyEntry],
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
        self._put(self._keys, upserts)
        for digest, _ in upserts:
            self._in_use.pop(digest, None)
        for digest in removals:
            self._keys[digest[0]].pop(digest, None)
            self._in_use.pop(digest, None)
        if last:
            self.revision = revision
            self.is_complete = complete

    def accept_token(self, digest: bytes, principal: Principal) -> None:
        """Decide on a token by `principal` from now on, until that expires."""
        self._remember(digest, principal)

    def forget_token(self, digest: bytes) -> None:
        """Decide no more on a token."""
        if digest not in self._keys[digest[0]]:
            self._in_use.pop(digest, None)

    def decide(self, credential: Credential, signal: int, now_ms: int) -> Verdict:
        """Decide whether the key may send a signal (a bit of `Signal.bit`) now (Unix time in ms).

        The one decision function for all protocols. It never waits.
        """
        digest = credential.digest
        if digest is None:
            return Denied(credential.refusal)
        principal = self._in_use.get(digest) or self._find(digest)
        if principal is None:
            if credential.is_token or (self.is_partial and self.is_loaded):
                return NOT_HERE
            return verdict_on_unknown(credential, self.is_complete)
        if credential.is_token and principal.expires_at_ms and principal.expires_at_ms <= now_ms:
            self.forget_token(digest)
            return NOT_HERE
        return verdict_on(principal, signal, now_ms)

    def _put(self, keys: _Shards, entries: Iterable[KeyEntry]) -> None:
        for digest, principal in entries:
            if principal[1:] == _ORDINARY:
                keys[digest[0]][digest] = principal.key_id
                continue
            keys[digest[0]][digest] = _pack(principal)
            if principal.tenant is not None and self._kinds is not None:
                for name, _ in principal.tenant.headers:
                    self._kinds.drop_too(name.encode())

    def _find(self, digest: bytes) -> Principal | None:
        """Look among all keys, and remember the one that is found."""
        kept = self._keys[digest[0]].get(digest)
        if kept is None:
            return None
        principal = _ordinary(kept) if isinstance(kept, str) else _unpack(kept)
        self._remember(digest, principal)
        return principal

    def _remember(self, digest: bytes, principal: Principal) -> None:
        if len(self._in_use) >= MAX_REMEMBERED:
            self._in_use.clear()
        self._in_use[digest] = principal


def verdict_on(principal: Principal, signal: int, now_ms: int) -> Verdict:
    """Decide on a key that is known: see `Keyring.decide`."""
    if principal.state:
        return Denied(_NOT_ACTIVE[principal.state], principal)
    if principal.expires_at_ms and principal.expires_at_ms <= now_ms:
        return Denied("KEY_EXPIRED", principal)
    if not principal.signals & signal:
        return Denied("SIGNAL_NOT_ALLOWED", principal)
    return principal


def verdict_on_unknown(credential: Credential, is_complete: bool) -> Verdict:
    """Decide on a key that nobody knows. `is_complete`: such a key exists nowhere."""
    return Denied(credential.if_unknown) if is_complete else _CANNOT_TELL


def _ordinary(key_id: str) -> Principal:
    # Half the time of `Principal(key_id)`.
    return tuple.__new__(Principal, (key_id, *_ORDINARY))


def _empty() -> _Shards:
    return [{} for _ in range(_SHARDS)]
