"""A receiver with tenants, as Loki, Mimir and Tempo are: it knows them by one header.

It reads names as the most tolerant server would (`_` as `-`), refuses a request that names no
tenant, several, or one that it does not have, and keeps what the others sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from tests.support.exchange import Answer, Request

_UNAUTHENTICATED: Final = 16
_PERMISSION_DENIED: Final = 7


class TenantStore:
    """A `sink.Script`; `tenants` are those that it has, `header` names one of them."""

    def __init__(self, tenants: Iterable[str], header: str = "X-Scope-OrgID") -> None:
        self._tenants = frozenset(tenants)
        self._header = header.lower().replace("_", "-")
        self.stored: defaultdict[str, list[Request]] = defaultdict(list)
        """Tenant → its requests."""
        self.refused: list[list[str]] = []
        """The tenants that each refused request named."""

    def __call__(self, request: Request) -> Answer:
        named = self.named(request)
        if len(named) != 1 or named[0] not in self._tenants:
            self.refused.append(named)
            if not named:
                return Answer(401, _UNAUTHENTICATED, "no org id")
            return Answer(403, _PERMISSION_DENIED, "no such tenant")
        self.stored[named[0]].append(request)
        return Answer()

    def named(self, request: Request) -> list[str]:
        """Return the values of the header, in whatever spelling its name came."""
        return [
            value
            for name, value in request.fields
            if name.lower().replace("_", "-") == self._header
        ]
