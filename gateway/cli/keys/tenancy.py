"""What `--owner`, `--label` and `--header` of `gateway keys` mean."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.keys.errors import InvalidInputError
from gateway.keys.tenancy import Tenancy, TenancyUpdate, same_header, tenancy
from gateway.keys.tenancy_rules import check_headers, check_tenancy, check_update


def parse_tenancy(
    owner: str | None, labels: Sequence[str] | None, headers: Sequence[str] | None
) -> Tenancy | None:
    """Read what a new key gets; None where nothing is given. Raises `InvalidInputError`."""
    given_labels = _pairs("--label", labels, "team=a")
    given_headers = _pairs("--header", headers, "X-Scope-OrgID=team-a")
    check_headers(given_headers)
    parsed = tenancy(owner, given_labels, given_headers)
    check_tenancy(parsed)
    return parsed


def parse_tenancy_update(
    owner: str | None, labels: Sequence[str] | None, headers: Sequence[str] | None
) -> TenancyUpdate | None:
    """Read what is to be changed of a key; an empty value takes a label or header away.

    None where nothing is given. Raises `InvalidInputError`.
    """
    if owner is None and not labels and not headers:
        return None
    update = TenancyUpdate(
        owner,
        {name: value or None for name, value in _pairs("--label", labels, "team=a").items()},
        {
            name: value or None
            for name, value in _pairs("--header", headers, "X-Scope-OrgID=team-a").items()
        },
    )
    check_update(update)
    return update


def _pairs(option: str, texts: Sequence[str] | None, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            msg = f"{option}: write NAME=VALUE, as in {example}"
            raise InvalidInputError(msg)
        name = name.strip()
        same = same_header if option == "--header" else str
        if any(same(name) == same(each) for each in pairs):
            msg = f"{option}: one name is given twice: give each once"
            raise InvalidInputError(msg)
        pairs[name] = value.strip()
    return pairs
