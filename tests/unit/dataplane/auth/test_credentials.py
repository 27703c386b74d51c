"""Finding the key in a request's fields."""

from __future__ import annotations

import pytest

from gateway.dataplane.auth.credentials import CredentialReader, choose
from gateway.dataplane.core.credential import Credential
from gateway.keys import api_key
from gateway.model import digest_of
from gateway.wire import hpack

READER = CredentialReader(("StackState", "SUSEObservability", "SUSE-Observability"))


def _read(value: bytes, name: bytes = b"authorization") -> Credential:
    return READER.read(name, value)


@pytest.mark.parametrize(
    "value",
    [
        b"StackState key",
        b"stackstate key",
        b"STACKSTATE   key",
        b"SUSEObservability key",
        b"suse-observability key",
        b"  StackState key \t",
    ],
)
def test_schemes_are_known_without_regard_to_case_and_spaces(value: bytes) -> None:
    assert _read(value).digest == digest_of(b"key")


@pytest.mark.parametrize(
    "value,refusal",
    [
        (b"Bearer key", "SCHEME_BEARER"),
        (b"bearer", "SCHEME_BEARER"),
        (b"Basic dXNlcjpwdw==", "SCHEME_UNKNOWN"),
        (b"SUSE Observability key", "SCHEME_UNKNOWN"),
        (b"key-without-scheme", "SCHEME_UNKNOWN"),
        (b"StackState%20key", "KEY_PERCENT_ENCODED"),
        (b"suseobservability%20key", "KEY_PERCENT_ENCODED"),
        (b'"StackState%20key"', "KEY_PERCENT_ENCODED"),
        (b"StackState+key", "KEY_PLUS_ENCODED"),
        (b"suse-observability+key", "KEY_PLUS_ENCODED"),
        (b"'StackState+key'", "KEY_PLUS_ENCODED"),
        (b'"StackState key"', "KEY_QUOTED"),
        (b"'stackstate key", "KEY_QUOTED"),
        (b'"StackState" key', "KEY_QUOTED"),
        (b'"Bearer key"', "SCHEME_UNKNOWN"),
        (b'"', "SCHEME_UNKNOWN"),
        (b"StackState", "KEY_EMPTY"),
        (b"StackState ", "KEY_EMPTY"),
        (b"", "KEY_EMPTY"),
        (b"StackState two words", "KEY_CHARACTERS"),
        (b"StackState k\x00y", "KEY_CHARACTERS"),
        (b"StackState k\r\ny", "KEY_CHARACTERS"),
        (b"StackState \xc3\xa4", "KEY_CHARACTERS"),
        (b"StackState key\n", "KEY_CHARACTERS"),
        (b"StackState " + b"k" * 513, "KEY_TOO_LONG"),
    ],
)
def test_what_holds_no_readable_key_says_why(value: bytes, refusal: str) -> None:
    credential = _read(value)
    assert (credential.digest, credential.refusal) == (None, refusal)


def test_the_longest_key_is_512_bytes() -> None:
    assert _read(b"StackState " + b"k" * 512).digest == digest_of(b"k" * 512)


def test_a_log_never_gets_a_word_that_could_be_the_key() -> None:
    """Only schemes of a closed set are named."""
    assert _read(b"iapikey-secret").scheme == "other"
    assert _read(b"Bearer secret").scheme == "bearer"
    assert "secret" not in repr([_read(b"StackState secret"), _read(b"secret secret")])


def test_a_mistyped_key_of_our_form_is_recognised() -> None:
    raw = api_key.ApiKey.generate().reveal().encode()
    assert _read(b"StackState " + raw).if_unknown == "KEY_UNKNOWN"
    wrong = raw[:-1] + (b"A" if raw[-1:] != b"A" else b"B")
    assert _read(b"StackState " + wrong).if_unknown == "KEY_TYPO"
    assert _read(b"StackState some-receiver-key").if_unknown == "KEY_UNKNOWN"


@pytest.mark.parametrize("key", [b'"key"', b"'key'", b'"key', b"key'", b'""'])
def test_a_key_in_quotation_marks_is_read_and_named_only_if_it_is_unknown(key: bytes) -> None:
    """An adopted key may hold any visible character."""
    for credential in (_read(b"StackState " + key), _read(key, b"sts-api-key")):
        assert (credential.digest, credential.if_unknown) == (digest_of(key), "KEY_QUOTED")


def test_a_field_is_known_by_its_raw_bytes_too() -> None:
    """As HPACK carries it; the second time without decoding."""
    raw = hpack.encode_field(b"authorization", b"StackState key", sensitive=True)
    assert READER.read_raw(raw).digest == digest_of(b"key")
    assert READER.read_raw(raw) is READER.read_raw(raw)


def test_the_memory_of_fields_is_bounded() -> None:
    """A flood of made-up keys does not grow it."""
    reader = CredentialReader(("StackState",), kept=50)
    for number in range(500):
        reader.read(b"authorization", b"StackState %d" % number)
    assert len(reader._kept) <= 50


GOOD = _read(b"StackState key")
SAME = _read(b"key", b"sts-api-key")
OTHER = _read(b"other", b"sts-api-key")
FOREIGN = _read(b"Basic abc")


@pytest.mark.parametrize(
    "credentials,refusal",
    [
        ([], "KEY_MISSING"),
        ([GOOD], ""),
        ([SAME], ""),
        ([GOOD, SAME], ""),
        ([FOREIGN, SAME], ""),
        ([GOOD, OTHER], "KEY_CONFLICT"),
        ([GOOD, GOOD], "AUTHORIZATION_REPEATED"),
        ([GOOD, FOREIGN, SAME], "AUTHORIZATION_REPEATED"),
        ([FOREIGN], "SCHEME_UNKNOWN"),
    ],
)
def test_one_credential_is_chosen_or_none(credentials: list[Credential], refusal: str) -> None:
    """The same key twice is fine; a carrier that cannot be read counts only where no other can."""
    chosen = choose(credentials)
    assert chosen.refusal == refusal
    assert (chosen.digest is None) == bool(refusal)


WITH_TOKENS = CredentialReader(("StackState",), with_tokens=True)
TOKEN = b"e30.e30.c2ln"


@pytest.mark.parametrize("value", [b"Bearer " + TOKEN, b"bearer   " + TOKEN + b" "])
def test_a_token_is_read_where_tokens_are_accepted(value: bytes) -> None:
    credential = WITH_TOKENS.read(b"authorization", value)
    assert credential.digest == digest_of(TOKEN)
    assert credential.is_token
    raw = hpack.encode_field(b"authorization", value)
    assert WITH_TOKENS.read_raw(raw).digest == credential.digest
    assert _read(value).refusal == "SCHEME_BEARER"


@pytest.mark.parametrize(
    "token, refusal",
    [
        (b"", "TOKEN_MALFORMED"),
        (b"word", "TOKEN_MALFORMED"),
        (b"a.b", "TOKEN_MALFORMED"),
        (b".b.c", "TOKEN_MALFORMED"),
        (b"a.b.c d", "TOKEN_MALFORMED"),
        (b"a.b.c\n", "TOKEN_MALFORMED"),
        (b"a.b.\xc3\xa4", "TOKEN_MALFORMED"),
        (b"a.b.c=", "TOKEN_MALFORMED"),
        (b"a.b.c.d", "TOKEN_MALFORMED"),
        (b"a..c.d.e", "TOKEN_ENCRYPTED"),
        (b"a.b." + b"c" * 8_189, "TOKEN_TOO_LONG"),
    ],
)
def test_what_is_no_token_says_why_and_on_the_intake_what_agents_send(
    token: bytes, refusal: str
) -> None:
    credential = WITH_TOKENS.read(b"authorization", b"Bearer " + token)
    assert (credential.digest, credential.refusal, credential.scheme) == (None, refusal, "bearer")
    assert credential.on_intake is not None
    assert credential.on_intake.refusal == "SCHEME_BEARER"


def test_an_unsigned_token_and_the_longest_one_are_for_control_to_judge() -> None:
    for token in (b"a.b.", b"a.b." + b"c" * 8_188):
        assert WITH_TOKENS.read(b"authorization", b"Bearer " + token).digest == digest_of(token)


def test_where_bearer_carries_keys_too_a_token_is_told_by_its_form() -> None:
    both = CredentialReader(("Bearer",), with_tokens=True)
    assert both.read(b"authorization", b"Bearer " + TOKEN).is_token
    key = both.read(b"authorization", b"Bearer key")
    assert (key.digest, key.is_token) == (digest_of(b"key"), False)


def test_a_token_is_a_token_under_bearer_only() -> None:
    for name, value in ((b"authorization", b"StackState " + TOKEN), (b"sts-api-key", TOKEN)):
        assert not WITH_TOKENS.read(name, value).is_token
