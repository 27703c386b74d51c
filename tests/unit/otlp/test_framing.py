from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.otlp.framing import FramingError, GrpcMessage, frame, unframe


@given(payload=st.binary(), is_compressed=st.booleans())
def test_a_framed_message_comes_back(payload: bytes, *, is_compressed: bool) -> None:
    framed = frame(payload, is_compressed=is_compressed)
    assert unframe(framed) == GrpcMessage(is_compressed, payload)


def test_the_prefix_is_a_flag_and_a_big_endian_length() -> None:
    assert frame(b"abc", is_compressed=True) == b"\x01\x00\x00\x00\x03abc"


@pytest.mark.parametrize(
    "body, text",
    [
        (b"", "exactly one"),
        (b"\x00\x00\x00", "exactly one"),
        (b"\x00\x00\x00\x00\x04abc", "announces 4 bytes, but the call has 3"),
        (frame(b"a") + frame(b"b"), "announces 1 bytes, but the call has 7"),
        (b"\x02\x00\x00\x00\x00", "flag is 2"),
        (b'{"resourceSpans":[]}', "this is not gRPC"),
    ],
)
def test_a_body_that_is_not_one_message_is_an_error(body: bytes, text: str) -> None:
    with pytest.raises(FramingError, match=text):
        unframe(body)
