"""Heads and trailers of a backend's answers from HTTP/2 header blocks. Short ones repeat, and are
known by their bytes.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.dataplane.core.heads import ANSWER_HOP_BY_HOP, FieldSection, Pair
from gateway.dataplane.core.memo import Memo
from gateway.wire import hpack
from gateway.wire.http2 import ErrorCode, Http2ConnectionError

_SECTIONS_KEPT: Final = 1_000
_LONGEST_KEPT: Final = 256
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")
"""What makes a field's value malformed (RFC 9113 §8.2.1). Outer blanks would too, but gRPC servers
send messages that end with one.
"""


class AnswerSections:
    """Reads the header blocks of all backends of a worker."""

    __slots__ = ("_memo",)

    def __init__(self) -> None:
        self._memo: Memo[bytes, FieldSection] = Memo(_SECTIONS_KEPT)

    def read(self, block: bytes, decoder: hpack.BlockDecoder) -> FieldSection | None:
        """Read one block, None if it is malformed. Raises `Http2ConnectionError`."""
        is_stateless = decoder.is_stateless
        if is_stateless:
            section = self._memo.kept.get(block)
            if section is not None:
                return section
        try:
            pairs = decoder.decode(block)
        except hpack.HeaderBlockError as error:
            raise Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        except hpack.HeaderListTooLargeError:
            return None
        section = _read_section(pairs)
        if (
            is_stateless
            and section is not None
            and len(block) <= _LONGEST_KEPT
            and hpack.split(block) is not None
        ):
            self._memo.add(block, section)
        return section


def _read_section(pairs: list[Pair]) -> FieldSection | None:
    status = 0
    fields: list[Pair] = []
    for name, value in pairs:
        if name == b":status":
            if status or fields or len(value) != 3 or not value.isdigit():
                return None
            status = int(value)
        elif not _NAME.match(name) or _FORBIDDEN.search(value):
            return None
        elif name not in ANSWER_HOP_BY_HOP:
            fields.append((name, value))
    section = FieldSection(status, fields)
    for name, value in fields:
        if name == b"grpc-status":
            section.grpc_status = int(value) if value.isdigit() and len(value) <= 4 else 2
        elif name == b"grpc-message":
            section.grpc_message = value
        elif name == b"content-length" and value.isdigit():
            section.content_length = int(value)
    return section
