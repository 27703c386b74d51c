"""The vocabulary of HTTP/2 (RFC 9113): frame types, flags, error codes, settings, frames as bytes,
one stream's flow control.

How a connection uses them: `http2_receiver`, `http2_sender`.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
MAX_FRAME: Final = 16_384
"""What we accept (SETTINGS_MAX_FRAME_SIZE stays at its default) and the most that we put in one
DATA frame.
"""
MAX_HEADER_BLOCK: Final = 128 * 1024
"""Most bytes of one header block over all its CONTINUATION frames."""
FIRST_SERVER_STREAM: Final = 2
MAX_STREAM_ID: Final = 2**31 - 1


class ErrorCode(enum.IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """RFC 9113 §6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Http2ConnectionError(Exception):
    """The peer broke the protocol (RFC 9113 §5.4.1): the connection ends with GOAWAY(code).

    `abuse` is the kind of frame where the peer has sent too many (`http2_budget.KINDS`).
    """

    def __init__(self, code: ErrorCode, text: str, abuse: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.abuse = abuse


class Http2StreamError(Exception):
    """The peer broke the rules on one stream (RFC 9113 §5.4.2): it is reset, the others go on."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


class Stream:
    """One stream's flow control, both directions; roles add what they need."""

    __slots__ = (
        "credit",
        "id",
        "id_bytes",
        "local_ended",
        "queue",
        "queue_ended",
        "queued",
        "receive_window",
        "remote_ended",
        "send_window",
        "window",
    )

    def __init__(self, stream_id: int, send_window: int, window: int) -> None:
        self.id = stream_id
        self.id_bytes = stream_id.to_bytes(4, "big")
        self.send_window = send_window
        self.window = window
        self.receive_window = window
        self.credit = 0
        self.queue: deque[bytes] | None = None
        self.queued = 0
        self.queue_ended = False
        self.local_ended = False
        self.remote_ended = False


NO_STREAM: Final = b"\0\0\0\0"


def frame_head(length: int, kind: int, flags: int) -> bytes:
    """Build what stands before a frame's stream id."""
    return (length << 16 | kind << 8 | flags).to_bytes(5, "big")


def frame(kind: int, flags: int, id_bytes: bytes, payload: bytes) -> bytes:
    """Build one frame."""
    return frame_head(len(payload), kind, flags) + id_bytes + payload


def settings_frame(values: dict[Setting, int]) -> bytes:
    """Build a SETTINGS frame."""
    payload = b"".join(
        key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items()
    )
    return frame(SETTINGS, 0, NO_STREAM, payload)
