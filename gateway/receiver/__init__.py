"""The debug receiver: an OTLP backend that decodes what arrives and tells about it.

`Receiver` is the library's way in; `gateway receive` and `gateway demo` are made of it. It stores
nothing and forwards nothing.
"""

from __future__ import annotations

from gateway.receiver.record import Record
from gateway.receiver.server import ListenError, Receiver

__all__ = ["ListenError", "Receiver", "Record"]
