"""Which keys are listed: by owner and labels, for the management API and `gateway keys list`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.keys.errors import InvalidInputError
from gateway.keys.scope import EVERYTHING, Scope
from gateway.keys.tenancy import Tenancy
from gateway.keys.tenancy_rules import check_label_name, check_label_value, check_owner


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Takes the keys that have the owner, where one is given, and all of the labels.

    `scope` is what whoever lists them may see.
    """

    owner: str | None = None
    labels: frozenset[tuple[str, str]] = frozenset()
    scope: Scope = EVERYTHING

    @classmethod
    def of(cls, owner: str | None, labels: Iterable[str], scope: Scope = EVERYTHING) -> KeyFilter:
        """Make one of texts; labels are written NAME=VALUE. Raises `InvalidInputError`."""
        if owner is not None and not owner:
            msg = "the owner is empty: name one, or leave it out for all keys"
            raise InvalidInputError(msg)
        check_owner(owner)
        return cls(owner, frozenset(_label(text) for text in labels), scope)

    @property
    def takes_all(self) -> bool:
        """Whether nothing is asked for."""
        return self.owner is None and not self.labels and self.scope.is_everything

    def takes(self, tenancy: Tenancy | None) -> bool:
        """Whether a key with this tenancy is listed."""
        if tenancy is None:
            return self.takes_all
        is_owners = self.owner is None or tenancy.owner == self.owner
        return is_owners and self.labels.issubset(tenancy.labels) and self.scope.covers(tenancy)

    def parameters(self) -> dict[str, Any]:
        """Return it as parameters of a query."""
        parameters: dict[str, Any] = {}
        if self.owner is not None:
            parameters["owner"] = self.owner
        if self.labels:
            parameters["label"] = sorted(f"{name}={value}" for name, value in self.labels)
        return parameters


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        msg = "a label to list by is written NAME=VALUE, as in team=a"
        raise InvalidInputError(msg)
    check_label_name(name)
    check_label_value(name, value)
    return name, value
