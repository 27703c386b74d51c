"""Importing structlog without what it would bring along.

structlog imports rich if it finds it, for tracebacks that are never shown: 5 MB and a tenth of the
time that a command takes to start. Whoever uses rich itself can import it afterwards.
"""

from __future__ import annotations

import sys


def import_structlog() -> None:
    """Import structlog as if rich were not installed; no effect once either is imported."""
    if "rich" in sys.modules or "structlog" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say: not installed
    try:
        import structlog  # noqa: F401, PLC0415 - others use it; it must be imported just now
    finally:
        del sys.modules["rich"]
