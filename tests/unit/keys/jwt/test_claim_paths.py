"""Where in a token's claims a value stands."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.keys.jwt.claim_paths import ClaimPath

CLAIMS: dict[str, Any] = {
    "team": "a",
    "realm": {"roles": ["first", "second"], "null": None},
    "https://a.example/team": "b",
}


@pytest.mark.parametrize(
    "path, value",
    [
        ("$.team", "a"),
        ("$['team']", "a"),
        ("$['https://a.example/team']", "b"),
        ("$.realm.roles[1]", "second"),
        ("$.realm['roles'][0]", "first"),
        ("$.realm.roles[2]", None),
        ("$.realm.roles.name", None),
        ("$.realm[0]", None),
        ("$.realm.null", None),
        ("$.team.more", None),
        ("$.team[0]", None),
        ("$.missing", None),
    ],
)
def test_a_path_leads_to_one_value_or_nothing(path: str, value: object) -> None:
    parsed = ClaimPath.parse(path)
    assert parsed.find(CLAIMS) == value
    assert str(parsed) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "team",
        "$",
        "$.",
        "$.*",
        "$..team",
        "$.a b",
        "$[*]",
        "$[-1]",
        "$[01]",
        "$[99999]",
        "$['']",
        "$['a\nb']",
        '$["a"]',
        "$.a[",
        "$.a trailing",
        "$." + "a" * 500,
    ],
)
def test_what_is_no_path_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as \$\.team"):
        ClaimPath.parse(text)
