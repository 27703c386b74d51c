"""The settings of issuers of tokens: what they must be, and what comes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import settings
from gateway.config import worker_settings
from gateway.config.jwt import issuers
from tests.unit.config.support import load_text, problems_of

A = "'https://login.example/realms/a'"
STORES = "stores: ['jwt+https://login.example/realms/a']"


@pytest.mark.parametrize(
    "keys, path, message",
    [
        ("stores: ['jwt://login.example']", "keys.stores[0]", "the protocol is missing"),
        ("stores: ['jwt+https://']", "keys.stores[0]", "the URL has no host"),
        ("stores: ['jwt+https://word@a.example']", "keys.stores[0]", "must not contain a user"),
        ("stores: ['jwt+https://a.example?word']", "keys.stores[0]", "must not contain '?'"),
        (
            "stores: ['jwt+http://a.example'], jwt: {audience: a}",
            "keys.stores[0]",
            "write jwt+https",
        ),
        (STORES, "keys.jwt.audience", "is missing"),
        (
            f"{STORES}, jwt: {{audience: a, algorithms: [none]}}",
            "keys.jwt.algorithms[0]",
            "must be RS256",
        ),
        (
            f"{STORES}, jwt: {{audience: a, algorithms: [HS256]}}",
            "keys.jwt.algorithms[0]",
            "must be RS256",
        ),
        (f"{STORES}, jwt: {{audience: a, algorithms: []}}", "keys.jwt.algorithms", "at least one"),
        (f"{STORES}, jwt: {{audience: a, clock_skew: 1h}}", "keys.jwt.clock_skew", "at most 600"),
        (f"{STORES}, jwt: {{audience: a, refresh: 1s}}", "keys.jwt.refresh", "at least 5"),
        (f"{STORES}, jwt: {{audience: a, map: {{name: team}}}}", "keys.jwt.map.name", "such as $."),
        (
            f"{STORES}, jwt: {{audience: a, map: {{owner: team}}}}",
            "keys.jwt.map.owner",
            "such as $.",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{labels: {{team: team}}}}}}",
            "keys.jwt.map.labels.team",
            "such as $.",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{labels: {{'te am': $.a}}}}}}",
            'keys.jwt.map.labels["te am"]',
            "letters, digits",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{headers: {{sts-api-key: $.a}}}}}}",
            "keys.jwt.map.headers.sts-api-key",
            "carries the API key",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{headers: {{X_Forwarded_For: $.a}}}}}}",
            "keys.jwt.map.headers.X_Forwarded_For",
            "the gateway itself says there who sends",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{headers: {{X-Org: $.a, x_org: $.b}}}}}}",
            "keys.jwt.map.headers",
            "one for many servers",
        ),
        (
            f"{STORES}, jwt: {{audience: a, map: {{limits: {{requests: 5}}}}}}",
            "keys.jwt.map.limits.requests",
            "must be text",
        ),
        (
            f"{STORES}, jwt: {{audience: a, issuers: [{{url: 'https://b.example'}}]}}",
            "keys.jwt.issuers[0].url",
            "is no issuer in keys.stores",
        ),
        (
            f"{STORES}, jwt: {{audience: a, issuers: [{{url: {A}, jwks_uri: 'http://a.b/x'}}]}}",
            "keys.jwt.issuers[0].jwks_uri",
            "use https://",
        ),
        (
            f"{STORES}, jwt: {{audience: a, issuers: [{{url: {A}}}, {{url: {A}}}]}}",
            "keys.jwt.issuers[1].url",
            "twice",
        ),
        (
            f"{STORES}, jwt: {{audience: a, tls: {{ca_file: /no/ca.pem}}}}",
            "keys.jwt.tls.ca_file",
            "/no/ca.pem",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(
    tmp_path: Path, keys: str, path: str, message: str
) -> None:
    (problem,) = problems_of(tmp_path, f"keys: {{{keys}}}")
    assert problem.path == path
    assert message in problem.message
    assert "word" not in problem.message


def test_two_issuers_without_an_audience_are_one_error(tmp_path: Path) -> None:
    text = "keys: {stores: ['jwt+https://a.example', 'jwt+https://b.example']}"
    assert len(problems_of(tmp_path, text)) == 1


def test_an_issuer_has_its_own_settings_and_else_the_common_ones(tmp_path: Path) -> None:
    text = """
keys:
  stores: ['jwt+https://a.example', 'authority+https://s/authorize', 'jwt+https://b.example/']
  jwt:
    audience: common
    issuers:
      - {url: 'https://b.example/', audience: [own], algorithms: [EdDSA], map: {name: $.team}}
"""
    one, two = issuers(load_text(tmp_path, text).config.keys)
    assert (one.url, one.audience, one.map.name) == ("https://a.example", ["common"], "$.sub")
    assert (two.url, two.audience, two.map.name) == ("https://b.example/", ["own"], "$.team")
    assert (one.algorithms, two.algorithms) == (["RS256", "ES256", "EdDSA"], ["EdDSA"])


@pytest.mark.parametrize(
    "stores, expected",
    [
        ("'sqlite:///a/b.db'", None),
        ("'jwt+https://a.example'", (False, True, 7.0)),
        ("'authority+https://s/authorize'", (True, False, 6.0)),
        ("'jwt+https://a.example', 'authority+https://s/authorize'", (True, True, 7.0)),
    ],
)
def test_workers_know_what_is_to_be_asked_about(
    tmp_path: Path, stores: str, expected: tuple[bool, bool, float] | None
) -> None:
    text = f"keys: {{stores: [{stores}], jwt: {{audience: a}}}}"
    found = worker_settings(load_text(tmp_path, text).config, 0, 1, [], 3, 1).authority
    if expected is None:
        assert found is None
    else:
        assert isinstance(found, settings.AuthoritySettings)
        assert (found.keys, found.tokens, found.wait_s) == expected


def test_settings_without_an_issuer_are_noticed(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "keys: {jwt: {audience: a}}")
    assert any("keys.jwt" in str(warning) for warning in loaded.warnings)
