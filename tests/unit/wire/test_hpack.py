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


@pytest.mark.parametrize("block", [b"\xbf", b"\x80", b"\x0f", b"\x3f\xe2\x1f", b"\x00\x85ab"])
def test_a_broken_block_is_said_to_be_broken(block: bytes) -> None:
    with pytest.raises(hpack.HeaderBlockError):
        hpack.BlockDecoder().decode(block)
