"""Which keys somebody may see and change: all, or those of a team, which have its labels.

Keys outside of a scope do not exist for whoever has it. Raises `InvalidInputError` with texts for
the person who asked; how scopes are configured does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.keys.errors import InvalidInputError
from gateway.keys.tenancy import Label, Tenancy, TenancyUpdate, same_header, tenancy
from gateway.model import Pairs


@dataclass(frozen=True, slots=True)
class Scope:
    """Takes the keys that have all of `labels`; without any, all keys, and nothing is forced.

    `headers` are those that new keys of the scope get, and the only ones that can be set within it:
    a header tells the backend whose data it is.
    """

    labels: frozenset[Label] = frozenset()
    headers: Pairs = ()

    @property
    def is_everything(self) -> bool:
        """Whether it takes all keys."""
        return not self.labels

    def covers(self, given: Tenancy | None) -> bool:
        """Whether a key with this tenancy is within it."""
        return self.is_everything or (given is not None and self.labels.issubset(given.labels))

    def of_new(self, given: Tenancy | None) -> Tenancy | None:
        """Return what a new key is stored with: its labels and headers besides."""
        if self.is_everything:
            return given
        asked = given or Tenancy()
        self._check_labels(dict(asked.labels))
        self._check_headers(dict(asked.headers))
        return tenancy(asked.owner, dict({*asked.labels, *self.labels}), dict(self.headers))

    def of_update(self, asked: TenancyUpdate) -> TenancyUpdate:
        """Return a change that leaves a key within it."""
        if self.is_everything:
            return asked
        labels = dict(asked.labels or {})
        self._check_labels(labels)
        self._check_headers(asked.headers or {})
        if "headers" in asked.replaced:
            msg = "this token cannot take the headers of a key away: ask an administrator"
            raise InvalidInputError(msg)
        return replace(asked, labels=labels | dict(self.labels)) if asked.replaced else asked

    def _check_labels(self, labels: Mapping[str, str | None]) -> None:
        for name, value in sorted(self.labels):
            if labels.get(name, value) != value:
                msg = (
                    f"the label {name} is {value} for all keys of this token: leave it out, or ask"
                    " an administrator to move the key to another scope"
                )
                raise InvalidInputError(msg)

    def _check_headers(self, headers: Mapping[str, str | None]) -> None:
        own = {same_header(name): value for name, value in self.headers}
        for name, value in headers.items():
            if value is None or own.get(same_header(name)) != value:
                msg = (
                    f"this token cannot set the header {name}: keys with its labels get the headers"
                    " that the gateway's configuration has for it; ask an administrator"
                )
                raise InvalidInputError(msg)


EVERYTHING: Final = Scope()
"""No restriction."""
