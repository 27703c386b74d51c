"""What is wrong with a key's name, description or expiration, in the words of the rules of keys.

The shapes say it in the words of JSON Schema, which nobody who creates a key thinks in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.keys import rules
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


_CHECKS: Final[dict[str, Callable[[object], None]]] = {
    "name": _check_name,
    "description": _check_description,
    "expiration": _check_expiration,
}
