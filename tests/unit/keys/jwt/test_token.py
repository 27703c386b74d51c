"""Reading one token, and checking it."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.jwt.issuer_keys import KeySetError, parse_key_set
from gateway.keys.jwt.token import (
    Accepted,
    Fault,
    IssuerRules,
    TokenError,
    check_claims,
    read_token,
    signer_of,
)
from gateway.outcome import REFUSALS
from tests.support.issuer import SigningKey, part_of, unsigned

ISSUER: Final = "https://login.example"
ALL: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
RULES: Final = IssuerRules(ISSUER, frozenset({"gateway", "other"}), ALL)
NOW: Final = 2_000_000_000.0
KEY: Final = SigningKey.make("k1")
RSA: Final = SigningKey.make("rsa", "RS256")
EC_521: Final = SigningKey.make("p521", "ES512")
ED: Final = SigningKey.make("ed", "EdDSA")
GOOD: Final[dict[str, Any]] = {"iss": ISSUER, "sub": "agent", "aud": "gateway", "exp": NOW + 60}


def _published(*jwks: dict[str, Any]) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def _check(text: str, *keys: SigningKey, rules: IssuerRules = RULES) -> Accepted:
    token = read_token(text)
    published = parse_key_set(_published(*(key.jwk() for key in keys or (KEY,))), rules.algorithms)
    signer = signer_of(token, published.find(token.kid, token.algorithm))
    if signer is None:
        raise TokenError(Fault.SIGNATURE)
    return check_claims(token, rules, signer, NOW)


def _fault(text: str, *keys: SigningKey) -> Fault:
    with pytest.raises(TokenError) as refused:
        _check(text, *keys)
    return refused.value.fault


def test_each_fault_is_a_row_of_the_table() -> None:
    assert {fault.value for fault in Fault} <= set(REFUSALS)


@pytest.mark.parametrize(
    "key, algorithm",
    [
        (RSA, "RS256"),
        (RSA, "RS512"),
        (RSA, "PS256"),
        (KEY, "ES256"),
        (EC_521, "ES512"),
        (ED, "EdDSA"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.kid,
)
def test_every_kind_of_key_checks_its_algorithms(key: SigningKey, algorithm: str) -> None:
    published = parse_key_set(_published(key.jwk(alg=None)), ALL)
    token = read_token(key.sign(GOOD, algorithm))
    assert signer_of(token, published.find(key.kid, algorithm)) is not None
    tampered = read_token(key.sign({**GOOD, "sub": "x"}, algorithm).rpartition(".")[0] + ".AAAA")
    assert signer_of(tampered, published.find(key.kid, algorithm)) is None


def test_a_key_that_names_its_algorithm_checks_no_other() -> None:
    published = parse_key_set(_published(RSA.jwk(alg="RS256")), ALL)
    assert published.find("rsa", "RS256")
    assert not published.find("rsa", "PS256")
    assert not published.find("rsa", "ES256")


def test_a_good_token_says_who_until_when() -> None:
    accepted = _check(KEY.sign(GOOD))
    assert accepted.principal.name == "agent"
    assert accepted.until == GOOD["exp"] + 30
    assert repr(read_token(KEY.sign(GOOD))) == "Token()"


def test_a_token_without_a_keys_name_may_be_of_any_key_and_two_keys_may_share_a_name() -> None:
    other = SigningKey.make("k1")
    same_name = SigningKey.make("k1", "RS256")
    for key in (KEY, other, same_name):
        _check(key.sign(GOOD), KEY, other, same_name)
        _check(key.sign(GOOD, kid=None), KEY, other, same_name)


@pytest.mark.parametrize(
    "claims, fault",
    [
        ({"exp": NOW - 31}, Fault.EXPIRED),
        ({"exp": None}, Fault.CLAIMS),
        ({"exp": True}, Fault.CLAIMS),
        ({"exp": "tomorrow"}, Fault.CLAIMS),
        ({"exp": -1}, Fault.CLAIMS),
        ({"exp": 10**30}, Fault.CLAIMS),
        ({"exp": 1e300}, Fault.CLAIMS),
        ({"nbf": NOW + 31}, Fault.NOT_YET_VALID),
        ({"nbf": "x"}, Fault.CLAIMS),
        ({"aud": "someone-else"}, Fault.AUDIENCE),
        ({"aud": ["a", "b"]}, Fault.AUDIENCE),
        ({"aud": []}, Fault.AUDIENCE),
        ({"aud": None}, Fault.CLAIMS),
        ({"aud": ["gateway", 7]}, Fault.CLAIMS),
        ({"aud": {"gateway": 1}}, Fault.CLAIMS),
        ({"sub": None}, Fault.CLAIMS),
        ({"sub": "a\nb"}, Fault.CLAIMS),
    ],
    ids=str,
)
def test_each_wrong_claim_has_a_reason_of_its_own(claims: dict[str, Any], fault: Fault) -> None:
    # PyJWT refuses to sign some of these: the tokens are written by hand and signed as bytes.
    body = json.dumps({k: v for k, v in {**GOOD, **claims}.items() if v is not None}).encode()
    assert _fault(_signed(body)) is fault


def _signed(body: bytes, header: dict[str, Any] | None = None) -> str:
    import jwt  # noqa: PLC0415 - one use

    return jwt.PyJWS().encode(body, KEY.private, "ES256", {"kid": KEY.kid, **(header or {})})


@pytest.mark.parametrize("claims", [{"exp": NOW - 29}, {"nbf": NOW + 29}, {"aud": ["x", "other"]}])
def test_clocks_may_differ_and_one_of_several_audiences_is_enough(claims: dict[str, Any]) -> None:
    _check(KEY.sign({**GOOD, **claims}))


def test_neither_an_unsigned_token_nor_one_signed_with_a_public_key_is_believed() -> None:
    for name in ("none", "None", "NONE", ""):
        assert _fault(unsigned({"alg": name, "kid": "k1"}, GOOD)) is Fault.SIGNATURE
    assert _fault(KEY.confuse(GOOD)) is Fault.SIGNATURE
    assert _fault(RSA.confuse(GOOD), RSA) is Fault.SIGNATURE
    with pytest.raises(KeySetError):
        parse_key_set(_published({"kty": "oct", "k": part_of(KEY.pem()), "alg": "HS256"}), ALL)


def test_a_token_of_another_key_of_the_same_name_is_not_believed() -> None:
    assert _fault(SigningKey.make("k1").sign(GOOD)) is Fault.SIGNATURE
    assert _fault(KEY.sign(GOOD, jwk=SigningKey.make("x").jwk())[:-4] + "AAAA") is Fault.SIGNATURE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "..",
        unsigned(b"{", GOOD),
        unsigned(b"\xff", GOOD),
        unsigned([], GOOD),
        unsigned({}, GOOD),
        unsigned({"alg": 7}, GOOD),
        unsigned({"alg": "ES256", "kid": 7}, GOOD),
        unsigned({"alg": "ES256"}, b"[]"),
        unsigned({"alg": "ES256"}, b'{"exp": NaN}'),
        unsigned({"alg": "ES256"}, b'{"exp": Infinity}'),
        unsigned(b'{"alg":"ES256","x":' + b"[" * 3000 + b"]" * 3000 + b"}", {}),
        unsigned({"alg": "ES256"}, b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}"),
        unsigned({"alg": "ES256"}, GOOD) + "=",
        unsigned({"alg": "ES256"}, GOOD) + "\n",
        unsigned({"alg": "ES256"}, GOOD).replace(".", ". ", 1),
        "e30.e30.é",
        "e30.e30.A",
        unsigned({"alg": "ES256"}, {"x": "y" * 8192}),
    ],
    ids=range(23),
)
def test_what_is_no_signed_jwt_is_malformed(text: str) -> None:
    assert _fault(text) is Fault.MALFORMED


def test_an_extension_that_is_critical_is_refused() -> None:
    for critical in (["b64"], ["exp"], [], "x", None):
        header = {"alg": "ES256", "kid": "k1", "crit": critical, "b64": False}
        assert _fault(unsigned(header, GOOD)) is Fault.EXTENSION


@given(st.text(max_size=200) | st.from_regex(r"[\w.-]{0,200}", fullmatch=True))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(TokenError):
        _check(text)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_no_parts_do_anything_but_be_refused(head: bytes, claims: bytes, signature: bytes) -> None:
    with pytest.raises(TokenError):
        _check(unsigned(head, claims, signature))


# Key sets


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": ' + b"[" * 50_000,
        _published(),
        _published({"kty": "RSA"}),
        _published({"kty": "RSA", "n": 7, "e": []}),
        _published({"kty": "RSA", "n": "AQ", "e": "AQAB"}),
        _published({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        _published({"kty": "EC", "crv": "P-256", "x": part_of(b"x" * 32), "y": part_of(b"y" * 32)}),
        _published({"kty": "EC", "crv": ["P-256"]}),
        _published({"kty": ["RSA"]}),
        _published(KEY.jwk(use="enc")),
        _published(KEY.jwk(use=None, key_ops=["sign"])),
        _published(KEY.jwk(alg="ES384")),
        _published(KEY.jwk(crv="secp256k1")),
        _published(KEY.jwk(d=part_of(b"d" * 32))),
        _published(SigningKey.make("short", "RS256", bits=1024).jwk()),
        b'{"keys": [null, 7, "x", []]}',
    ],
    ids=range(22),
)
def test_a_set_without_a_usable_key_is_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(KeySetError) as wrong:
        parse_key_set(content, ALL)
    assert str(wrong.value).isprintable()
    assert len(str(wrong.value)) < 300


def test_keys_that_cannot_be_used_do_not_take_the_others_with_them() -> None:
    found = parse_key_set(_published({"kty": "oct", "k": "AA"}, KEY.jwk(), {"kty": "RSA"}), ALL)
    assert len(found) == 1


def test_only_pinned_algorithms_have_keys() -> None:
    both = _published(KEY.jwk(), RSA.jwk(alg=None))
    found = parse_key_set(both, {"PS256"})
    assert not found.find("k1", "ES256")
    assert not found.find("rsa", "RS256")
    assert found.find("rsa", "PS256")


def test_a_key_is_the_same_whatever_it_is_called() -> None:
    one, other = (parse_key_set(_published(KEY.jwk(kid=kid)), ALL) for kid in ("a", "b"))
    assert one.thumbprints == other.thumbprints
