"""Header blocks and Huffman strings, against the `hpack` library."""

from __future__ import annotations

import hpack as library
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import hpack, huffman

_encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_pairs = st.lists(
    st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=9
)


@given(st.binary(max_size=600))
def test_a_huffman_string_is_decoded_as_it_was_encoded(data: bytes) -> None:
    assert huffman.decode(_encoder.encode(data)) == data


@pytest.mark.parametrize(
    "bad",
    [b"\x00", b"\xff\xff", b"\xff\xff\xff\xff", b"\x1f\xff", b"\xff\xff\xff\xfc"],
    ids=["zeros as padding", "padding too long", "EOS", "a byte of padding", "EOS cut off"],
)
def test_wrong_padding_and_eos_are_refused(bad: bytes) -> None:
    """RFC 7541 §5.2: padding is the beginning of EOS, shorter than a byte."""
    with pytest.raises(huffman.HuffmanError):
        huffman.decode(bad)


@given(_pairs)
def test_a_block_is_cut_into_the_fields_that_it_was_made_of(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    encoder = library.Encoder()
    encoder.header_table_size = 0
    for block in (encoder.encode(pairs).lstrip(b"\x20"), hpack.encode(pairs)):
        raws = hpack.split(block)
        assert raws is not None
        assert b"".join(raws) == block
        assert [hpack.decode_field(raw) for raw in raws] == pairs


@given(_pairs)
def test_the_library_reads_what_we_encode(pairs: list[tuple[bytes, bytes]]) -> None:
    decoded = library.Decoder(max_header_list_size=1 << 20).decode(hpack.encode(pairs), raw=True)
    assert [(bytes(name), bytes(value)) for name, value in decoded] == pairs


@given(st.binary(max_size=100))
def test_any_bytes_are_split_or_left_to_the_full_decoder(block: bytes) -> None:
    raws = hpack.split(block)
    assert raws is None or b"".join(raws) == block


@pytest.mark.parametrize("first", [b"\x7e", b"\x7f\x00", b"\x0f\x2f", b"\x1f\x2f"])
def test_a_name_of_a_dynamic_entry_is_left_to_the_full_decoder(first: bytes) -> None:
    """Index 62 fits the six bits of incremental indexing, and only those."""
    assert hpack.split(first + b"\x01x") is None


def test_a_table_that_the_peer_keeps_is_followed() -> None:
    """A peer that ignores the announced size costs speed only."""
    decoder = hpack.BlockDecoder()
    decoder.acknowledge()
    encoder = library.Encoder()
    fields = [(b"x-tenant", b"blue")]
    assert decoder.decode(encoder.encode(fields)) == fields
    assert decoder.decode(encoder.encode(fields)) == fields
    assert not decoder.is_stateless


def test_a_table_given_up_and_taken_again_is_followed() -> None:
    """Size updates may come at the start of any block."""
    decoder = hpack.BlockDecoder()
    decoder.acknowledge()
    decoder.decode(b"\x20")
    stateless = [decoder.is_stateless]
    encoder = library.Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    encoder.header_table_size = 4_096
    fields = [(b"x-tenant", b"blue")]
    assert decoder.decode(encoder.encode(fields)) == fields
    stateless.append(decoder.is_stateless)
    assert stateless == [True, False]
    assert decoder.decode(encoder.encode(fields)) == fields


def test_a_list_that_is_too_large_keeps_the_decoder_usable() -> None:
    """The block is refused, the connection goes on."""
    decoder = hpack.BlockDecoder()
    large = hpack.encode([(b"x-large", b"v" * hpack.MAX_HEADER_LIST_BYTES)])
    with pytest.raises(hpack.HeaderListTooLargeError):
        decoder.decode(large)
    assert decoder.decode(hpack.encode([(b"a", b"b")])) == [(b"a", b"b")]


@pytest.mark.parametrize(
    "large",
    [
        hpack.encode([(b"x-large", b"v" * hpack.MAX_HEADER_LIST_BYTES)]),
        hpack.encode([(b"a", b"b")]) * (hpack.MAX_FIELDS + 1),
    ],
    ids=["bytes", "fields"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_list_that_is_too_large_puts_into_the_table_is_there(
    large: bytes, is_first: bool
) -> None:
    """Else entry 62 is another sender's key."""
    decoder = hpack.BlockDecoder()
    encoder = library.Encoder()
    theirs, ours = (b"authorization", b"StackState theirs"), (b"authorization", b"StackState ours")
    assert decoder.decode(encoder.encode([theirs])) == [theirs]
    indexed = encoder.encode([ours])
    with pytest.raises(hpack.HeaderListTooLargeError):
        decoder.decode(indexed + large if is_first else large + indexed)
    assert decoder.decode(b"\xbe\xbf") == [ours, theirs]
    assert encoder.encode([ours]) == b"\xbe"


def test_many_references_to_one_large_entry_are_a_list_that_is_too_large() -> None:
    decoder = hpack.BlockDecoder()
    entry = (b"x", b"v" * 4_000)
    decoder.decode(library.Encoder().encode([entry]))
    with pytest.raises(hpack.HeaderListTooLargeError):
        decoder.decode(b"\xbe" * 128 * 1024)
    assert decoder.decode(b"\xbe") == [entry]


_updates = st.lists(st.sampled_from([0, 33, 64, 200, 1_000, 4_096]), max_size=2)
_names = st.sampled_from([b"authorization", b":path", b"x-tenant", b"x" * 60, b"age"])
_table_pairs = st.lists(st.tuples(_names, st.binary(max_size=200)), max_size=9)


@given(st.lists(st.tuples(_updates, _table_pairs), max_size=8))
def test_blocks_with_a_table_are_read_as_the_library_reads_them(
    blocks: list[tuple[list[int], list[tuple[bytes, bytes]]]],
) -> None:
    decoder = hpack.BlockDecoder()
    other = library.Decoder(max_header_list_size=1 << 20)
    encoder = library.Encoder()
    for sizes, pairs in blocks:
        for size in sizes:
            if size != encoder.header_table_size:  # the library forgets one before that is none
                encoder.header_table_size = size
        block = encoder.encode(pairs)
        assert decoder.decode(block) == pairs
        assert other.decode(block, raw=True) == pairs


STRICTER = ("too many table size updates", "an integer of more than 32 bits")
"""Where the library is not as strict."""


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_blocks_are_read_or_refused_as_the_library_does(blocks: list[bytes]) -> None:
    decoder = hpack.BlockDecoder()
    other = library.Decoder()
    for block in blocks:
        try:
            expected = [tuple(pair) for pair in other.decode(block, raw=True)]
        except (library.HPACKError, IndexError):
            with pytest.raises(hpack.HeaderBlockError):
                decoder.decode(block)
            return
        try:
            assert decoder.decode(block) == expected
        except hpack.HeaderBlockError as error:
            assert str(error).startswith(STRICTER)  # noqa: PT017 - an error is only allowed
            return


@pytest.mark.parametrize(
    "updates",
    [b"\x20\x20\x20", b"\x20" * 100_000, b"\x3f\xe2\x1f", b"\x20\x3f\xe2\x1f", b"\x20\x3f\xff"],
    ids=["three", "100,000", "above the limit", "the second above the limit", "cut off"],
)
def test_updates_that_may_not_be_are_refused_before_anything_is_decoded(updates: bytes) -> None:
    """RFC 7541 §4.2, §6.3. The table is as it was."""
    decoder = hpack.BlockDecoder()
    entry = (b"x-tenant", b"blue")
    decoder.decode(library.Encoder().encode([entry]))
    with pytest.raises(hpack.HeaderBlockError):
        decoder.decode(updates + b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == [entry]


def test_an_update_behind_a_field_is_refused() -> None:
    with pytest.raises(hpack.HeaderBlockError):
        hpack.BlockDecoder().decode(b"\x82\x20")


@pytest.mark.parametrize("block", [b"\xbf", b"\x80", b"\x0f", b"\x3f\xe2\x1f", b"\x00\x85ab"])
def test_a_broken_block_is_said_to_be_broken(block: bytes) -> None:
    with pytest.raises(hpack.HeaderBlockError):
        hpack.BlockDecoder().decode(block)
