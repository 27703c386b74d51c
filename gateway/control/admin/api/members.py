"""What is wrong with the members of a request about a key, in the words of the rules of keys.

The shapes say it in the words of JSON Schema, which nobody who creates a key thinks in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.keys import rules, tenancy_rules
from gateway.keys.errors import InvalidExpiryError, InvalidInputError
from gateway.keys.times import now_unix_ms


def check_members(value: object, complaint: str) -> None:
    """Check what can be named better than by `complaint`, the shapes' own text.

    Raises `InvalidInputError`, `InvalidExpiryError`; nothing where the complaint is about others.
    """
    if not isinstance(value, dict):
        return
    if "name" not in value and "required field `name`" in complaint:
        msg = "the name is missing: say what the key is for, as in agent-eu"
        raise InvalidInputError(msg)
    for member, check in _CHECKS.items():
        if member in value:
            check(value[member])


def _check_name(value: object) -> None:
    if not isinstance(value, str):
        msg = "the name must be text: say what the key is for, as in agent-eu"
        raise InvalidInputError(msg)
    rules.check_name(value)


def _check_description(value: object) -> None:
    if not isinstance(value, str | None):
        msg = "the description must be text"
        raise InvalidInputError(msg)
    rules.check_description(value)


def _check_expiration(value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        msg = (
            "the expiration must be a number, the Unix milliseconds of 00:00 UTC of a day:"
            " 1924905600000 is 2030-12-31"
        )
        raise InvalidExpiryError(msg)
    rules.check_expiry(value, now_unix_ms())


def _check_owner(value: object) -> None:
    if not isinstance(value, str | None):
        msg = "the owner must be text"
        raise InvalidInputError(msg)
    tenancy_rules.check_owner(value)


def _check_labels(value: object) -> None:
    tenancy_rules.check_labels(_texts(value, "labels", '{"team": "a"}'))


def _check_headers(value: object) -> None:
    tenancy_rules.check_headers(_texts(value, "headers", '{"X-Scope-OrgID": "team-a"}'))


def _texts(value: object, what: str, example: str) -> dict[str, str | None]:
    """Check names with texts, or null, which takes one away."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(each, str | None) for each in value.values()
    ):
        msg = f"{what} must be an object whose values are text: write {example}"
        raise InvalidInputError(msg)
    return value


_CHECKS: Final[dict[str, Callable[[object], None]]] = {
    "name": _check_name,
    "description": _check_description,
    "expiration": _check_expiration,
    "owner": _check_owner,
    "labels": _check_labels,
    "headers": _check_headers,
}
