"""What a stream can show. Standard library only: commands and logs ask, whatever they import."""

from __future__ import annotations

import os
from typing import TextIO


def is_fancy(stream: TextIO) -> bool:
    """Whether colours and emoji may be written: a terminal that can, and no `NO_COLOR` set.

    See no-color.org.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
