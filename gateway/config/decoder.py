"""Whether the packages are installed that count the items of samples (`usage.sample`)."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Final

_NEEDED: Final = ("opentelemetry.proto", "cramjam", "google.protobuf")

MISSING: Final = (
    "no items are counted, because this needs packages that a server does without: add them with"
    "  pip install 'otlp-gateway[usage]'  (in a checkout: '.[usage]')"
)


def has_decoder() -> bool:
    """Whether all of them are there."""
    with contextlib.suppress(ModuleNotFoundError):
        return all(importlib.util.find_spec(name) is not None for name in _NEEDED)
    return False
