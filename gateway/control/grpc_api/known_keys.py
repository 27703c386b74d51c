"""What decisions for another proxy need to know of this gateway's keys."""

from __future__ import annotations

from gateway.keys.record import KeyDelta, TenantRecord
from gateway.keys.service import KeyService
from gateway.keys.tenancy import same_header
from gateway.model import KeyDigest, Pairs, Principal


class KnownKeys:
    """`ext_authz.Keys` of a key service, which has been started."""

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys
        self.tenant_headers: set[bytes] = set()
        """See `Keys`. As in a worker, none is forgotten."""
        keys.subscribe(self._take)
        for each in keys.records():
            if isinstance(each, TenantRecord):
                self._learn(each.tenancy.headers)

    def principal(self, digest: bytes) -> Principal | None:
        """See `Keys`."""
        known = self._keys.lookup(KeyDigest(digest))
        return None if known is None else known.principal(with_name=True)

    @property
    def is_complete(self) -> bool:
        """See `Keys`."""
        return self._keys.is_loaded and self._keys.is_complete

    def _take(self, delta: KeyDelta) -> None:
        for _, principal in delta.upserts:
            if principal.tenant is not None:
                self._learn(principal.tenant.headers)

    def _learn(self, headers: Pairs) -> None:
        self.tenant_headers.update(same_header(name).encode() for name, _ in headers)
