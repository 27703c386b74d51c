"""What is fuzzed: functions of an input that raise where the gateway is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.fuzz.targets import sides, wire_formats

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        sides.http1_server,
        sides.http2_server,
        sides.http1_upstream,
        sides.http2_upstream,
        wire_formats.header_blocks,
        wire_formats.fields_alone,
        wire_formats.huffman_strings,
        wire_formats.proxy_headers,
        wire_formats.credential_fields,
        wire_formats.channel_messages,
        wire_formats.configurations,
        wire_formats.certificates,
    )
}
