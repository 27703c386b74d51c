"""An authenticating gateway for OTLP and StackState telemetry."""

from __future__ import annotations

from gateway import compiled

__version__ = "0.2.0"

compiled.choose()
