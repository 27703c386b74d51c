"""The head of a request over HTTP/2, strict as RFC 9113 §8.2 and §8.3 have it."""

from __future__ import annotations

from typing import Final

from gateway.receiver.exports import Head
from gateway.wire.hpack import Pair
from gateway.wire.http2 import ErrorCode, Http2StreamError

_REQUIRED: Final = frozenset({":method", ":scheme", ":path"})
_PSEUDO: Final = _REQUIRED | {":authority"}
_OF_A_CONNECTION: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)


def read_head(stream_id: int, fields: list[Pair], peer: str) -> Head:
    """Sort a head's fields; `:authority` becomes `host`.

    Raises:
        Http2StreamError: it is malformed.
    """
    pseudo: dict[str, str] = {}
    headers: list[tuple[str, str]] = []
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if not name.startswith(":"):
            headers.append((name, value))
        elif headers or name in pseudo or name not in _PSEUDO:
            raise _malformed(stream_id)
        else:
            pseudo[name] = value
    if not pseudo.keys() >= _REQUIRED or not pseudo[":path"]:
        raise _malformed(stream_id)
    if not all(_is_allowed(name, value) for name, value in headers):
        raise _malformed(stream_id)
    if ":authority" in pseudo:
        others = (field for field in headers if field[0] != "host")
        headers = [("host", pseudo[":authority"]), *others]
    return Head("2", pseudo[":method"], pseudo[":path"], tuple(headers), peer)


def _is_allowed(name: str, value: str) -> bool:
    if name == "te":
        return value == "trailers"
    return name == name.lower() and name not in _OF_A_CONNECTION


def _malformed(stream_id: int) -> Http2StreamError:
    return Http2StreamError(stream_id, ErrorCode.PROTOCOL_ERROR)
