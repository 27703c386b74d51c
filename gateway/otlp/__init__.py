"""OTLP messages: the services of the signals, two encodings, the compressions.

For the commands that read or write telemetry (`receive`, `send`, `demo`). The data path does not
use it: it forwards bodies without decoding them.
"""

from __future__ import annotations
