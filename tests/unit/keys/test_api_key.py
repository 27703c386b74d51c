from __future__ import annotations

import pickle
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.api_key import (
    ApiKey,
    InvalidKeyError,
    has_valid_checksum,
    looks_issued,
    new_key_id,
)
from gateway.model import MAX_KEY_ID, digest_of

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))

issued = st.builds(ApiKey.generate).map(ApiKey.reveal)


def test_an_issued_key_has_the_documented_form() -> None:
    key = ApiKey.generate().reveal()

    prefix, rest = key[:8], key[8:]

    assert prefix == "iapikey-"
    assert len(rest) == 38
    assert set(rest) <= set(BASE62)


def test_the_checksum_is_the_crc_32_of_all_before_it_in_base_62() -> None:
    key = ApiKey.generate().reveal()

    value = 0
    for character in key[-6:]:
        value = value * 62 + BASE62.index(character)

    assert value == zlib.crc32(key[:-6].encode())


def test_a_small_checksum_is_filled_up_with_zeros() -> None:
    heads = (f"iapikey-{number:032}" for number in range(100_000))
    head = next(head for head in heads if zlib.crc32(head.encode()) < 62**4)
    checksum = _base62(zlib.crc32(head.encode()))

    assert checksum.startswith("00")
    assert has_valid_checksum((head + checksum).encode())


def _base62(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text.rjust(6, "0")


@given(issued)
def test_every_issued_key_is_recognised_and_can_be_adopted(key: str) -> None:
    assert looks_issued(key.encode())
    assert has_valid_checksum(key.encode())
    assert ApiKey.adopt(key).digest == digest_of(key.encode())


@given(issued, st.integers(8, 45), st.sampled_from(BASE62))
def test_one_wrong_character_is_a_typing_error(key: str, position: int, other: str) -> None:
    wrong = key[:position] + other + key[position + 1 :]

    assert looks_issued(wrong.encode())
    assert has_valid_checksum(wrong.encode()) == (wrong == key)


@given(issued, st.integers(8, 44))
def test_two_neighbours_exchanged_are_a_typing_error(key: str, position: int) -> None:
    left, right = key[position], key[position + 1]
    wrong = key[:position] + right + left + key[position + 2 :]

    assert has_valid_checksum(wrong.encode()) == (left == right)


@given(issued, st.integers(0, 45))
def test_a_key_that_was_cut_off_does_not_look_issued(key: str, length: int) -> None:
    assert not looks_issued(key[:length].encode())
    assert not has_valid_checksum(key[:length].encode())


@given(st.binary(max_size=600))
def test_any_bytes_are_judged_without_failing(key: bytes) -> None:
    assert has_valid_checksum(key) <= looks_issued(key)


@pytest.mark.parametrize("key", [b"", b"iapikey-", b"svctok-abc", b"IAPIKEY-" + b"a" * 38])
def test_keys_of_other_forms_do_not_look_issued(key: bytes) -> None:
    assert not looks_issued(key)


@pytest.mark.parametrize("appended", ["\n", " ", "é", "a"])
def test_an_issued_key_with_something_appended_does_not_look_issued(appended: str) -> None:
    assert not looks_issued((ApiKey.generate().reveal() + appended).encode())


def test_no_two_issued_keys_are_equal() -> None:
    assert len({ApiKey.generate().digest for _ in range(1_000)}) == 1_000


@given(st.text(VISIBLE, min_size=1, max_size=512))
def test_any_visible_ascii_can_be_adopted_as_it_is(key: str) -> None:
    adopted = ApiKey.adopt(key)

    assert adopted.reveal() == key
    assert adopted.digest == digest_of(key.encode("ascii"))


@given(
    st.text(VISIBLE, max_size=20),
    st.characters(exclude_characters=VISIBLE),
    st.text(VISIBLE, max_size=20),
)
def test_a_key_with_any_other_character_is_refused(before: str, odd: str, after: str) -> None:
    with pytest.raises(InvalidKeyError, match=f"^character {len(before) + 1} of the key is "):
        ApiKey.adopt(before + odd + after)


@pytest.mark.parametrize(
    "key, text",
    [
        ("", "the key is empty"),
        ("k" * 513, "513 characters long: at most 512"),
        ("two words", "character 4 of the key is a space"),
        ("line\nline", "character 5 of the key is a line break"),
        ("bell\a", "character 5 of the key is a control character"),
        ("rub\x7f", "character 4 of the key is a control character"),
        ("schlüssel", "character 5 of the key is outside ASCII"),
    ],
)
def test_a_refused_key_is_told_why(key: str, text: str) -> None:
    with pytest.raises(InvalidKeyError, match=text):
        ApiKey.adopt(key)


@given(st.text(VISIBLE, min_size=12, max_size=512))
def test_a_key_is_never_part_of_what_is_printed_of_it(key: str) -> None:
    material = ApiKey.adopt(key)

    assert key not in f"{material} {material!r} {[material]}"


def test_a_key_in_the_clear_is_not_serialised() -> None:
    with pytest.raises(TypeError, match="not to be serialised"):
        pickle.dumps(ApiKey.generate())


def test_ids_are_positive_exact_in_json_and_of_one_length() -> None:
    ids = [new_key_id() for _ in range(1_000)]

    assert all(0 < key_id <= MAX_KEY_ID for key_id in ids)
    assert {len(str(key_id)) for key_id in ids} == {15}
    assert len(set(ids)) == len(ids)
