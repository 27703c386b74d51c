"""Importing libraries without what they would bring along."""

from __future__ import annotations

import os
import sys


def import_structlog() -> None:
    """Import structlog as if rich were not installed; no effect once either is imported.

    It would use rich for tracebacks that are never shown: 5 MB, and a tenth of the time that a
    command takes to start. Whoever uses rich itself can import it afterwards.
    """
    if "rich" in sys.modules or "structlog" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say: not installed
    try:
        import structlog  # noqa: F401, PLC0415 - others use it; it must be imported just now
    finally:
        del sys.modules["rich"]


def import_aiohttp() -> None:
    """Import aiohttp with an HTTP client that trusts no certificate unless it is told which.

    It would read all that the system trusts, for a client that few gateways have, and keep it:
    3 MB. No effect once it is imported. To be called while there is one thread.
    """
    if "aiohttp" in sys.modules:
        return
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(before, os.devnull))
    try:
        import aiohttp  # noqa: F401, PLC0415 - others use it; it must be imported just now
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
