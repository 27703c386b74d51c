from __future__ import annotations

import zlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.otlp.encodings import (
    ENCODINGS,
    EncodingError,
    TooLargeError,
    Transport,
    UnknownEncodingError,
    compress,
    decompress,
)

TEXT = b"resource_spans " * 500
PACKED = tuple(encoding for encoding in ENCODINGS if encoding != "none")


@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize("encoding", PACKED)
@given(data=st.binary(max_size=4096))
def test_what_was_compressed_comes_back(encoding: str, transport: Transport, data: bytes) -> None:
    assert decompress(encoding, compress(encoding, data, transport)) == data


@pytest.mark.parametrize("encoding", PACKED)
def test_compression_makes_repetitive_data_smaller(encoding: str) -> None:
    assert len(compress(encoding, TEXT, "http")) < len(TEXT) / 5


@pytest.mark.parametrize("name", ["", "identity", "Identity"])
def test_no_encoding_leaves_the_body_as_it_is(name: str) -> None:
    assert decompress(name, TEXT) == TEXT


def test_names_of_encodings_are_read_without_regard_to_case_and_space() -> None:
    assert decompress(" GZip ", compress("gzip", TEXT, "http")) == TEXT


def test_snappy_is_framed_over_grpc_and_a_block_over_http_as_the_collector_does() -> None:
    assert compress("snappy", TEXT, "grpc").startswith(b"\xff\x06\x00\x00sNaPpY")
    assert cramjam.snappy.decompress_raw(compress("snappy", TEXT, "http")).read() == TEXT


def test_both_forms_of_snappy_are_read_under_either_name() -> None:
    for packed in (compress("snappy", TEXT, "grpc"), compress("snappy", TEXT, "http")):
        assert decompress("snappy", packed) == TEXT
        assert decompress("x-snappy-framed", packed) == TEXT


@pytest.mark.parametrize("encoding", [*PACKED, "identity"])
def test_a_body_that_unpacks_to_the_limit_passes_and_one_byte_more_does_not(encoding: str) -> None:
    packed = compress("none" if encoding == "identity" else encoding, TEXT, "http")
    assert decompress(encoding, packed, limit=len(TEXT)) == TEXT
    with pytest.raises(TooLargeError, match=f"larger than {len(TEXT) - 1} bytes"):
        decompress(encoding, packed, limit=len(TEXT) - 1)


@pytest.mark.parametrize("encoding", PACKED)
def test_a_bomb_is_refused_at_the_limit(encoding: str) -> None:
    bomb = compress(encoding, bytes(20 * 1024 * 1024), "grpc")
    with pytest.raises(TooLargeError):
        decompress(encoding, bomb, limit=2 * 1024 * 1024)


@pytest.mark.parametrize("encoding", PACKED)
def test_a_body_that_unpacks_a_thousandfold_passes_below_the_limit(encoding: str) -> None:
    zeros = bytes(3 * 1024 * 1024)
    assert decompress(encoding, compress(encoding, zeros, "grpc"), limit=4 * 1024 * 1024) == zeros


def test_a_block_that_lies_about_its_size_reserves_no_memory_for_it() -> None:
    four_gigabytes = b"\xff\xff\xff\xff\x0f"
    with pytest.raises(TooLargeError):
        decompress("snappy", four_gigabytes + b"\x00a")


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_body_is_an_error_that_names_the_encoding(encoding: str, damage: str) -> None:
    packed = compress(encoding, TEXT, "http")
    body = {"cut": packed[:-3], "other": b"\x01\x02\x03 no archive"}[damage]
    with pytest.raises(EncodingError, match=encoding) as caught:
        decompress(encoding, body)
    assert not isinstance(caught.value, TooLargeError | UnknownEncodingError)


@pytest.mark.parametrize("encoding", [name for name in PACKED if name != "snappy"])
def test_an_empty_body_is_no_archive(encoding: str) -> None:
    with pytest.raises(EncodingError, match=encoding):
        decompress(encoding, b"")


def test_bytes_after_a_deflate_stream_are_an_error() -> None:
    with pytest.raises(EncodingError, match="follow"):
        decompress("deflate", zlib.compress(TEXT) + b"more")


@pytest.mark.parametrize("name", ["br", "gzip, zstd", "x"])
def test_an_unknown_encoding_is_told_with_what_is_known(name: str) -> None:
    with pytest.raises(UnknownEncodingError, match="gzip, deflate"):
        decompress(name, TEXT)


def test_compressing_with_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownEncodingError, match="'br'"):
        compress("br", TEXT, "http")
