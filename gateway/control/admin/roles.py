"""What callers of the admin API may do: each token and each client certificate has a role.

A role may do all that the ones before it may. Which role a route needs stands at the route, and
whether it takes callers that may do so with some keys only.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gateway.config.tree import AdminCertificateConfig, AdminTokenConfig
from gateway.keys.scope import EVERYTHING, Scope


class Role(enum.IntEnum):
    """In ascending order."""

    READER = 1
    """Sees keys, the audit log, the configuration and traces; changes nothing."""
    KEY_MANAGER = 2
    """Creates, changes and deletes keys."""
    ADMINISTRATOR = 3
    """Reloads the configuration, too."""

    def __str__(self) -> str:
        return self.name.lower()


class Caller(NamedTuple):
    """Who calls the admin API."""

    name: str
    """Of the token or the certificate, as the audit log shows it."""
    role: Role
    scope: Scope = EVERYTHING
    """Of which keys."""


def caller_of(configured: AdminTokenConfig | AdminCertificateConfig) -> Caller:
    """Return who has a configured token or certificate."""
    headers = tuple(sorted(configured.headers.items()))
    scope = Scope(frozenset(configured.labels.items()), headers)
    return Caller(configured.name, Role[configured.role.upper()], scope)


class _Pattern(NamedTuple):
    kind: str
    """`DNS` or `URI`, as Python's ssl names it."""
    name: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class KnownCertificates:
    """Whose client certificates are accepted in place of a token."""

    _known: tuple[tuple[_Pattern, Caller], ...] = ()

    @classmethod
    def of(cls, configured: Iterable[AdminCertificateConfig]) -> KnownCertificates:
        """Take the configured ones."""
        return cls(tuple((_pattern(each.san), caller_of(each)) for each in configured))

    def find(self, certificate: Mapping[str, Any] | None) -> Caller | None:
        """Return who presents a certificate that TLS has verified; the first that matches counts.

        `certificate` is what `ssl.SSLSocket.getpeercert` returns.
        """
        names = list(_names_in(certificate or {}))
        for pattern, caller in self._known:
            if any(kind == pattern.kind and pattern.name.fullmatch(name) for kind, name in names):
                return caller
        return None


_URI_MARK: Final = "://"


def _pattern(san: str) -> _Pattern:
    """Read a pattern: `*` stands for one part of a path, or of a host name."""
    is_uri = _URI_MARK in san
    one_part = "[^/]+" if is_uri else "[^.]+"
    text = one_part.join(map(re.escape, san.split("*")))
    return _Pattern("URI" if is_uri else "DNS", re.compile(text, 0 if is_uri else re.IGNORECASE))


def _names_in(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in certificate.get("subjectAltName", ()):
        if len(entry) == 2 and isinstance(entry[1], str):  # noqa: PLR2004 - a pair
            yield entry[0], entry[1]
