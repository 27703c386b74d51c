"""Whose data a key sends: its owner, its labels, and the headers that the backend gets for it.

Values and how they are written as JSON. What they may be is in `keys.tenancy_rules`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gateway.model import Pairs, Tenant

_SHARED: Final = 10_000
"""Different tenancies of which one object serves all their keys."""


Label = tuple[str, str]
"""Name and value."""


class Tenancy(NamedTuple):
    """What a key carries besides what it may do; a key without any has None instead.

    Tuples, because they are equal and hashed by what they hold: keys of one team share them.
    """

    owner: str | None = None
    labels: Pairs = ()
    """Sorted by name."""
    headers: Pairs = ()
    """Sorted by name; names as they were written."""

    def tenant(self, route_labels: frozenset[Label]) -> Tenant | None:
        """What a worker keeps: headers, and the labels that its settings name; None: nothing."""
        labels = tuple(pair for pair in self.labels if pair in route_labels)
        return _tenant(self.headers, labels) if self.headers or labels else None


@dataclass(frozen=True, slots=True)
class TenancyUpdate:
    """What is to be changed; None = leave it as it is."""

    owner: str | None = None
    """Empty = none."""
    labels: Mapping[str, str | None] | None = None
    """Those that are named; None = take it away."""
    headers: Mapping[str, str | None] | None = None
    """As `labels`; a name stands for all its spellings."""
    replaced: frozenset[str] = frozenset()
    """`labels`, `headers`: what is not named is taken away, too."""

    def applied(self, before: Tenancy | None) -> Tenancy | None:
        """Return the tenancy of a key that had `before`."""
        old = before or Tenancy()
        labels = {} if "labels" in self.replaced else dict(old.labels)
        headers = {} if "headers" in self.replaced else dict(old.headers)
        for name, value in (self.labels or {}).items():
            labels.pop(name, None)
            if value is not None:
                labels[name] = value
        for name, value in (self.headers or {}).items():
            same = same_header(name)
            headers = {each: kept for each, kept in headers.items() if same_header(each) != same}
            if value is not None:
                headers[name] = value
        return tenancy(old.owner if self.owner is None else self.owner, labels, headers)


def tenancy(
    owner: str | None, labels: Mapping[str, str] | None, headers: Mapping[str, str] | None
) -> Tenancy | None:
    """Make the tenancy of a key; None if nothing is set."""
    if not (owner or labels or headers):
        return None
    return _shared(
        Tenancy(
            owner or None,
            tuple(sorted((labels or {}).items())),
            tuple(sorted((headers or {}).items())),
        )
    )


def same_header(name: str) -> str:
    """Return what all spellings of a header's name have in common: servers that read `_` as `-`
    take them for one.
    """
    return name.lower().replace("_", "-")


def tenancy_as_json(given: Tenancy | None) -> dict[str, Any]:
    """Write `owner`, `labels` and `headers` as they stand in JSON: what is not set is left out."""
    if given is None:
        return {}
    members = {
        "owner": given.owner,
        "labels": dict(given.labels),
        "headers": dict(given.headers),
    }
    return {name: value for name, value in members.items() if value}


def tenancy_from_json(members: Mapping[str, Any]) -> Tenancy | None:
    """Read what `tenancy_as_json` wrote; members of later versions mean nothing here.

    Raises `ValueError` for what it cannot have written.
    """
    owner = members.get("owner")
    labels, headers = (
        {} if members.get(name) is None else members[name] for name in ("labels", "headers")
    )
    if not (owner is None or isinstance(owner, str)) or not _is_text(labels, headers):
        msg = "owner, labels or headers are no text"
        raise ValueError(msg)
    return tenancy(owner, labels, headers)


def _is_text(*maps: object) -> bool:
    return all(
        isinstance(each, dict)
        and all(isinstance(name, str) and isinstance(value, str) for name, value in each.items())
        for each in maps
    )


@functools.lru_cache(maxsize=_SHARED)
def _shared(given: Tenancy) -> Tenancy:
    return given


@functools.lru_cache(maxsize=_SHARED)
def _tenant(headers: Pairs, labels: Pairs) -> Tenant:
    return Tenant(headers, labels)
