"""The debug receiver: an OTLP backend that decodes requests and reports them.

`Receiver` is the entry point; `gateway receive` and `gateway demo` use it. It stores nothing and
forwards nothing.
"""

from __future__ import annotations

from gateway.receiver.received import ReceivedRequest
from gateway.receiver.server import ListenError, Receiver

__all__ = ["ListenError", "ReceivedRequest", "Receiver"]
