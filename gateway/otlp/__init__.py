"""What OTLP messages are: the signals' services, two encodings, the compressions.

For the commands that read or write telemetry (`receive`, `send`, `demo`). The data path never comes
here: it forwards bodies without opening them.
"""

from __future__ import annotations
