"""Labels and headers of keys where the configuration names them: the rules are those of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from gateway.keys import tenancy_rules
from gateway.keys.errors import InvalidInputError

_Value = TypeVar("_Value")


def _by(check: Callable[[_Value], None]) -> Callable[[_Value], _Value]:
    """Turn a rule of keys into a validator."""

    def validate(value: _Value) -> _Value:
        try:
            check(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
        return value

    return validate


def _check_label_value(value: str) -> None:
    tenancy_rules.check_label_value(None, value)


def _check_headers(headers: dict[str, str]) -> None:
    tenancy_rules.check_headers(headers)


def checked_header_names(headers: dict[str, str]) -> dict[str, str]:
    """Refuse headers that are one for many servers. Raises `ValueError`."""
    _by(tenancy_rules.check_headers)(dict.fromkeys(headers))
    return headers


HeaderName = Annotated[str, AfterValidator(_by(tenancy_rules.check_header_name))]
"""The name of a header that a sender's identity sets."""

LabelName = Annotated[str, AfterValidator(_by(tenancy_rules.check_label_name))]
"""The name of a label of keys."""

LabelValue = Annotated[str, AfterValidator(_by(_check_label_value))]
"""The value of a label of keys."""

ScopeLabels = Annotated[
    dict[LabelName, LabelValue], Field(min_length=1, max_length=tenancy_rules.MAX_PAIRS)
]
"""Which keys a caller of the admin API manages. Empty would be all: an error."""

ScopeHeaders = Annotated[
    dict[str, str],
    Field(max_length=tenancy_rules.MAX_PAIRS),
    AfterValidator(_by(_check_headers)),
]
"""The headers that the keys get which such a caller creates."""
