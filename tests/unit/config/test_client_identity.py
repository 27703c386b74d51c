"""Client certificates in the configuration: what is read, and what is wrong with other input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.config import worker_settings
from gateway.config.client_identity import pattern_of
from gateway.model import Signal
from gateway.settings import IdentityRule
from tests.support.certs import Authority
from tests.unit.config.support import load_text, problems_of

RULE = {"san": "spiffe://example.org/ns/*/sa/*", "name": "$2"}


def text_of(folder: Path, rule: dict[str, Any] | None = None, **tls: Any) -> str:
    authority = Authority.create(folder)
    server = authority.issue("server", ["localhost"])
    rules = [{**RULE, **(rule or {})}]
    settings = {
        "cert_file": str(server.cert_file),
        "key_file": str(server.key_file),
        "client_ca_file": str(authority.cert_file),
        "client_identity": {"rules": rules},
        **tls,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    listener = {"address": "127.0.0.1:4317", "tls": settings}
    return json.dumps({"listen": [listener]})


def test_a_worker_gets_the_rules_and_nobody_can_state_their_headers(tmp_path: Path) -> None:
    rule = {
        "owner": "team $1",
        "labels": {"team": "$1"},
        "headers": {"X-Org": "o-$1-$$"},
        "signals": ["traces", "logs"],
        "limits": {"requests": "90/m", "concurrent": 3},
    }
    config = load_text(tmp_path, text_of(tmp_path, rule)).config
    worker = worker_settings(config, 0, 1, [(0, 7)], 5, 100)
    tls = worker.listeners[0].tls
    assert tls is not None
    assert tls.identity is not None
    assert not tls.identity.is_needed
    assert tls.identity.rules == (
        IdentityRule(
            kind="URI",
            pattern=pattern_of(RULE["san"])[1],
            name="$2",
            owner="team $1",
            labels=(("team", "$1"),),
            headers=(("X-Org", "o-$1-$$"),),
            signals=Signal.TRACES.bit | Signal.LOGS.bit,
            limits=(2, None, 3),
        ),
    )
    assert worker.forward.drop_headers == ("X-Scope-OrgID", "X-Org")


@pytest.mark.parametrize(
    "rule, place, word",
    [
        ({"san": "spiffe://example.org/*a*"}, "san", "two *"),
        ({"san": "a b"}, "san", "subjectAltName"),
        ({"name": "$3"}, "name", "has $3"),
        ({"name": "$"}, "name", "$$ for a dollar sign"),
        ({"name": "a$b"}, "name", "$$ for a dollar sign"),
        ({"name": "ä"}, "name", "visible ASCII"),
        ({"owner": " $1"}, "owner", "space"),
        ({"labels": {"team": "\x1b"}}, "labels.team", "control characters"),
        ({"labels": {"te am": "a"}}, "labels", "te am"),
        ({"headers": {"X-Org": "ä$1"}}, "headers.X-Org", "visible ASCII"),
        ({"headers": {"Authorization": "$1"}}, "headers", "API key"),
        ({"headers": {"X-Org": "$1", "x_org": "$2"}}, "headers", "one for many servers"),
        ({"headers": {"Content-Type": "$1"}}, "headers", "sender's"),
        ({"signals": []}, "signals", "empty"),
        ({"signals": ["trace"]}, "signals", "traces"),
    ],
)
def test_a_rule_that_cannot_be_is_an_error_that_says_what_to_do(
    tmp_path: Path, rule: dict[str, Any], place: str, word: str
) -> None:
    found = problems_of(tmp_path, text_of(tmp_path, rule))
    texts = [(problem.path, problem.message) for problem in found]
    assert any(place in path and word in message for path, message in texts), texts
    assert "\x1b" not in repr([str(problem) for problem in found]).replace("\\x1b", "")


@pytest.mark.parametrize("setting", ["client_identity", "client_crl_files"])
def test_certificates_need_an_authority(tmp_path: Path, setting: str) -> None:
    text = text_of(tmp_path, client_ca_file=None, client_crl_files=["/nowhere.crl"])
    found = {problem.path: problem.message for problem in problems_of(tmp_path, text)}
    assert "requires client_ca_file" in found[f"listen[0].tls.{setting}"]


def test_the_same_names_twice_are_an_error(tmp_path: Path) -> None:
    text = text_of(tmp_path, client_identity={"rules": [RULE, RULE]})
    (problem,) = problems_of(tmp_path, text)
    assert "rule 1 has the same names" in problem.message


def test_a_list_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    forged = Authority.create(tmp_path / "other").revoke()
    text = text_of(tmp_path, client_crl_files=[str(tmp_path / "none.crl"), str(forged)])
    first, second = problems_of(tmp_path, text)
    assert "cannot be read" in first.message
    assert "signed by no certificate in client_ca_file" in second.message
    good = Authority.create(tmp_path / "good")
    text = text_of(
        tmp_path,
        client_crl_files=str(good.revoke()),
        client_ca_file=str(good.cert_file),
    )
    assert load_text(tmp_path, text).config.listen[0].tls is not None


@pytest.mark.parametrize(
    "san, name, found",
    [
        ("spiffe://a.org/ns/*/sa/*", "spiffe://a.org/ns/x.y-1/sa/b_c", ("x.y-1", "b_c")),
        ("spiffe://a.org/ns/*/sa/*", "spiffe://a.org/ns/x/sa/b/c", None),
        ("spiffe://a.org/ns/*/sa/*", "spiffe://a.org/ns//sa/b", None),
        ("spiffe://a.org/*", "spiffe://aXorg/b", None),
        ("spiffe://a.org/*", "spiffe://a.org/b\n", None),
        ("spiffe://a.org/agent-*", "spiffe://a.org/agent-7", ("7",)),
        ("*.Agents.example.org", "eu-1.agents.example.org", ("eu-1",)),
        ("*.agents.example.org", "a.b.agents.example.org", None),
        ("*.agents.example.org", "*.agents.example.org", None),
    ],
)
def test_a_wildcard_stands_for_one_part_of_a_name(
    san: str, name: str, found: tuple[str, ...] | None
) -> None:
    match = re.fullmatch(pattern_of(san)[1], name)
    assert (match.groups() if match else None) == found
