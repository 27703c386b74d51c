"""A backend's HTTP/2 connection on an in-memory transport: what it may send again."""

from __future__ import annotations

import pytest

from gateway.wire import hpack, http2
from gateway.wire.http2 import ErrorCode, frame
from tests.fuzz.worlds import UpstreamWorld
from tests.support.raw_http2 import stream_id

pytestmark = pytest.mark.asyncio

INTERIM = frame(
    http2.HEADERS, http2.END_HEADERS, stream_id(1), hpack.encode([(b":status", b"103")])
)
HEAD = frame(
    http2.HEADERS,
    http2.END_HEADERS,
    stream_id(1),
    hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc")]),
)
NOT_PROCESSED = {
    "a reset": frame(
        http2.RST_STREAM, 0, stream_id(1), ErrorCode.REFUSED_STREAM.to_bytes(4, "big")
    ),
    "a goaway": frame(http2.GOAWAY, 0, http2.NO_STREAM, bytes(8)),
}


@pytest.mark.parametrize("refusal", NOT_PROCESSED.values(), ids=list(NOT_PROCESSED))
@pytest.mark.parametrize(
    "before, may_be_sent_again",
    [(b"", True), (INTERIM, True), (HEAD, False)],
    ids=["nothing", "an interim answer", "an answer's head"],
)
async def test_a_request_whose_answer_has_begun_is_not_sent_again(
    refusal: bytes, before: bytes, may_be_sent_again: bool
) -> None:
    """Whatever the backend says: its caller would get the beginning of two answers."""
    backend = UpstreamWorld(is_http2=True)
    await backend.send(http2.settings_frame({}))
    request = backend.request()
    assert request is not None
    await backend.send(before + refusal)
    assert request.losses == [may_be_sent_again]
    await backend.end()
