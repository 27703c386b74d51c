"""Who a token's sender is, by its claims."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.keys.jwt.claim_paths import ClaimPath
from gateway.keys.jwt.identity import OTLP_SIGNALS, ClaimError, ClaimMap, sender_of
from gateway.keys.tenancy import tenancy
from gateway.model import KeyLimits, Principal, Signal

ISSUER = "https://a.example"
FULL = ClaimMap(
    name=ClaimPath.parse("$.name"),
    signals=ClaimPath.parse("$.scope"),
    limits={
        "requests": ClaimPath.parse("$.quota.rate"),
        "concurrent": ClaimPath.parse("$.quota.open"),
    },
    owner=ClaimPath.parse("$.team"),
    labels={"env": ClaimPath.parse("$.env")},
    headers={"X-Scope-OrgID": ClaimPath.parse("$.org")},
)


def _of(claim_map: ClaimMap = FULL, **claims: Any) -> Principal:
    claims = {"sub": "agent", "scope": "traces", **claims}
    return sender_of(claims, ISSUER, claim_map).principal


def _signals(principal: Principal) -> set[Signal]:
    return {signal for signal in Signal if principal.signals & signal.bit}


def test_a_sender_has_one_id_whatever_token_it_sends() -> None:
    one = _of(ClaimMap(), iat=1)
    assert one.key_id == _of(ClaimMap(), iat=2).key_id
    assert one.key_id.startswith("jwt:")
    assert (
        one.key_id != sender_of({"sub": "agent"}, "https://b.example", ClaimMap()).principal.key_id
    )
    assert one.key_id != _of(ClaimMap(), sub="other").key_id
    assert one.name == "agent"


def test_without_a_map_a_token_may_send_every_signal_of_otlp_and_nothing_of_the_agents() -> None:
    principal = _of(ClaimMap())
    assert _signals(principal) == set(OTLP_SIGNALS)
    assert principal.limits is None
    assert not principal.shared


@pytest.mark.parametrize(
    "scope, signals",
    [
        ("openid traces  logs", {Signal.TRACES, Signal.LOGS}),
        (["metrics", "profiles", 7, None], {Signal.METRICS, Signal.PROFILES}),
        ("openid", set()),
        ([], set()),
        ("intake traces", {Signal.TRACES}),
    ],
)
def test_signals_are_a_list_or_words_and_other_words_mean_nothing(
    scope: object, signals: set[Signal]
) -> None:
    assert _signals(_of(scope=scope)) == signals


def test_limits_are_those_that_are_there() -> None:
    assert _of(quota={"rate": 5, "open": 0}).limits == KeyLimits(requests=5, concurrent=0)
    assert _of(quota={"rate": 5}).limits == KeyLimits(requests=5)
    assert _of(quota={"bytes": 5}).limits is None


@pytest.mark.parametrize(
    "claims, word",
    [
        ({"sub": None}, "$.sub"),
        ({"sub": ""}, "$.sub"),
        ({"sub": ["a"]}, "$.sub"),
        ({"sub": True}, "$.sub"),
        ({"name": {"first": "a"}}, "$.name"),
        ({"name": "a\x1b[2J"}, "$.name"),
        ({"name": "n" * 256}, "$.name"),
        ({"scope": None}, "$.scope"),
        ({"scope": 7}, "$.scope"),
        ({"scope": {"traces": True}}, "$.scope"),
        ({"quota": {"rate": "5"}}, "$.quota.rate"),
        ({"quota": {"rate": 5.5}}, "$.quota.rate"),
        ({"quota": {"rate": True}}, "$.quota.rate"),
        ({"quota": {"rate": -1}}, "$.quota.rate"),
        ({"quota": {"rate": 10**16}}, "$.quota.rate"),
        ({"team": ["a"]}, "$.team"),
        ({"team": " a"}, "$.team"),
        ({"team": "a\x1b[2J"}, "$.team"),
        ({"env": {"name": "prod"}}, "$.env"),
        ({"env": "e" * 256}, "$.env"),
        ({"org": "a\r\nX-Admin: 1\x1b"}, "$.org"),
        ({"org": "ä"}, "$.org"),
        ({"org": ""}, "$.org"),
    ],
)
def test_a_claim_of_the_wrong_form_is_refused_by_its_path_and_never_repeated(
    claims: dict[str, Any], word: str
) -> None:
    with pytest.raises(ClaimError) as wrong:
        _of(**claims)
    assert word in str(wrong.value)
    assert "\x1b" not in str(wrong.value)


def test_a_number_can_be_an_id() -> None:
    assert _of(sub=17).key_id == _of(sub="17").key_id


def test_owner_labels_and_headers_are_those_that_are_there() -> None:
    claims = {"sub": "agent", "scope": "traces", "team": "a", "env": 7, "org": "team-a"}
    assert sender_of(claims, ISSUER, FULL).tenancy == tenancy(
        "a", {"env": "7"}, {"X-Scope-OrgID": "team-a"}
    )
    assert sender_of({"sub": "agent", "scope": ""}, ISSUER, FULL).tenancy is None
    assert sender_of(claims, ISSUER, ClaimMap()).tenancy is None
