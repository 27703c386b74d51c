"""Reading request heads: whichever way a block is read, the fields are the same.

The two ways are the raw representations that no table can change, looked up by their bytes, and the
`hpack` library's decoder.
"""

from __future__ import annotations

import contextlib

import hpack as library
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.heads import FieldKinds
from gateway.dataplane.http2.request_head import (
    HeadReader,
    KnownFields,
    LargeHeadError,
    MalformedHeadError,
)
from gateway.wire import hpack

SCHEMES = ("StackState",)
_NAMES = st.sampled_from(
    [
        b"content-type",
        b"content-length",
        b"user-agent",
        b"te",
        b"grpc-timeout",
        b"grpc-encoding",
        b"authorization",
        b"sts-api-key",
        b"x-custom",
        b"X-Upper",
        b"connection",
        b":path",
        b":status",
        b"bad name",
        b"",
    ]
)
_VALUES = st.one_of(
    st.sampled_from(
        [b"", b"trailers", b"StackState k", b"12", b"application/grpc", b"5S", b" x", b"a\nb"]
    ),
    st.binary(max_size=40),
)
_PSEUDO = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/v1/traces?x=1"),
    (b":authority", b"gateway:4317"),
]
KNOWN = KnownFields(CredentialReader(SCHEMES), FieldKinds(["X-Scope-OrgID"]))
"""As in a worker, what one connection has learned serves the others."""

_fields = st.lists(st.tuples(_NAMES, _VALUES), max_size=8)


def _stateless() -> hpack.BlockDecoder:
    decoder = hpack.BlockDecoder()
    decoder.acknowledge()
    decoder.decode(b"\x20")
    assert decoder.is_stateless
    return decoder


def _read(reader: HeadReader, block: bytes) -> object:
    """Everything that a head says, or that it is malformed."""
    try:
        head = reader.read(block)
    except MalformedHeadError:
        return "malformed"
    return (
        (head.method, head.path, head.query, head.authority),
        (head.content_type, head.content_length, head.grpc_timeout, head.expects_continue),
        head.fields,
        [credential[:3] for credential in head.credentials],
        library.Decoder().decode(head.encoded_h2(), raw=True),
        head.encoded_credentials_h1(),
    )


def _blocks(fields: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The same fields as different peers encode them, all without a table."""
    encoder = library.Encoder()
    encoder.header_table_size = 0
    huffman = encoder.encode(fields).lstrip(b"\x20")
    never = b"".join(hpack.encode_field(*pair, sensitive=True) for pair in fields)
    return [huffman, hpack.encode(fields), never]


@given(first=_fields, second=_fields)
def test_both_ways_of_reading_a_block_give_the_same_head(
    first: list[tuple[bytes, bytes]], second: list[tuple[bytes, bytes]]
) -> None:
    """Also on a connection whose earlier blocks have left a prefix behind."""
    fast = HeadReader(_stateless(), KNOWN)
    for fields in (first, second, first, [*first, *second]):
        whole = [*_PSEUDO, *fields]
        for block in _blocks(whole):
            slow = HeadReader(hpack.BlockDecoder(), KNOWN)
            assert _read(fast, block) == _read(slow, block)


@given(st.binary(max_size=200))
def test_random_blocks_raise_what_a_connection_handles(block: bytes) -> None:
    """Nothing but the documented errors."""
    reader = HeadReader(_stateless(), KNOWN)
    for _ in range(2):
        with contextlib.suppress(MalformedHeadError, hpack.HeaderBlockError, LargeHeadError):
            reader.read(block)


@pytest.mark.parametrize("field", [b"\xbe", b"\x7e\x01x", b"\x7f\x00\x01x", b"\x0f\x2f\x01x"])
def test_an_entry_of_a_table_without_any_is_a_broken_block(field: bytes) -> None:
    reader = HeadReader(_stateless(), KNOWN)
    reader.read(hpack.encode(_PSEUDO))

    with pytest.raises(hpack.HeaderBlockError):
        reader.read(hpack.encode(_PSEUDO) + field)


@given(_fields)
def test_what_is_forwarded_is_valid_whatever_came(fields: list[tuple[bytes, bytes]]) -> None:
    """No control characters, no upper case, no hop-by-hop or credential field gets through."""
    reader = HeadReader(_stateless(), KNOWN)
    for block in _blocks([*_PSEUDO, *fields]):
        try:
            head = reader.read(block)
        except MalformedHeadError:
            continue
        for name, value in library.Decoder().decode(head.encoded_h2(), raw=True):
            assert name == bytes(name).lower()
            assert name not in {b"connection", b"te", b"authorization", b"sts-api-key"}
            assert not name.startswith(b":")
            assert not any(byte < 0x20 and byte != 9 for byte in value)
            assert bytes(value).strip(b" \t") == value
        assert b"\n" not in head.encoded_h1().replace(b"\r\n", b"")
