"""What a worker knows of a client's certificate, as long as its connection lasts.

It was checked by TLS, and who it names was found out once, in the room `accept`. What can change
while a connection is open is asked with each request: whether the certificate has expired, and
whether it was revoked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.dataplane.core.credential import Credential
from gateway.model import KeyDigest, Principal

EXPIRED: Final = "CERTIFICATE_EXPIRED"
REVOKED: Final = "CERTIFICATE_REVOKED"
MISSING: Final = "CERTIFICATE_MISSING"
UNKNOWN: Final = "CERTIFICATE_UNKNOWN"
MALFORMED: Final = "CERTIFICATE_MALFORMED"


class Revocations:
    """Which certificates are revoked, for all listeners of a worker."""

    __slots__ = ("_ids", "_loading", "generation")

    def __init__(self) -> None:
        self.generation = 0
        """Another one for each new list."""
        self._ids: set[bytes] = set()
        self._loading: set[bytes] = set()

    def load(self, ids: Iterable[bytes], *, first: bool, last: bool) -> None:
        """Take a part of a new list; with the last one the whole takes effect at once."""
        if first:
            self._loading = set()
        self._loading.update(ids)
        if last:
            self._ids, self._loading = self._loading, set()
            self.generation += 1

    def has(self, own: bytes, issuer: bytes) -> bool:
        """Whether a certificate is revoked, or all of its issuer, by `CertificateIds`."""
        return own in self._ids or issuer in self._ids


class ClientCertificate:
    """A connection's certificate, or that it has none, on a listener that looks at them."""

    __slots__ = (
        "_expires_at_ms",
        "_generation",
        "_issuer",
        "_own",
        "_revocations",
        "_was_ended",
        "_was_revoked",
        "credential",
        "is_identity",
        "is_needed",
        "principal",
        "refusal",
    )

    def __init__(
        self,
        *,
        is_identity: bool,
        is_needed: bool,
        refusal: str = "",
        principal: Principal | None = None,
    ) -> None:
        self.is_identity = is_identity
        """Whether the listener takes senders' identities from certificates."""
        self.is_needed = is_needed
        """Whether a key alone does not suffice."""
        self.principal = principal
        """Who it names."""
        self.refusal = refusal
        """The reason in `outcome.REFUSALS` why it names nobody; empty where it does."""
        self.credential = Credential(None, refusal, "certificate")
        """What the log says of it."""
        self._expires_at_ms = 0
        self._own = b""
        self._issuer = b""
        self._revocations: Revocations | None = None
        self._generation = -1
        self._was_revoked = False
        self._was_ended = False

    def watch(
        self,
        digest: KeyDigest,
        own: bytes,
        issuer: bytes,
        expires_at_ms: int,
        revocations: Revocations,
    ) -> None:
        """Have it end with its time (Unix milliseconds), or when it is revoked (`CertificateIds`).

        `digest` is its SHA-256.
        """
        self.credential = Credential(digest, self.refusal, "certificate")
        self._own, self._issuer = own, issuer
        self._expires_at_ms = expires_at_ms
        self._revocations = revocations

    def end(self, digest: KeyDigest) -> None:
        """Refuse whatever comes on its connection: nobody can tell whether it was revoked."""
        self.credential = Credential(digest, self.refusal, "certificate")
        self._was_ended = True

    def ended(self, now_ms: int) -> str:
        """Return the reason in `outcome.REFUSALS` why it is no longer valid; empty while it is."""
        revocations = self._revocations
        if revocations is None:
            return self.refusal if self._was_ended else ""
        if self._generation != revocations.generation:
            self._generation = revocations.generation
            self._was_revoked = revocations.has(self._own, self._issuer)
        if self._was_revoked:
            return REVOKED
        return EXPIRED if now_ms >= self._expires_at_ms else ""
