"""The program `gateway`: first the signals, then everything that takes time to import."""

from __future__ import annotations

import gc
import os
import sys

from gateway import held_signals, lean_imports

_GC_THRESHOLDS = (10_000, 20, 50)
"""Instead of Python's (700, 10, 10), with which a tenth of the time that imports take went into
looking for garbage that they do not make.
"""


def main() -> None:
    """Run the command that the arguments name; ends the process with its exit code.

    Standard descriptors that are closed are opened on /dev/null: else the next file or socket would
    take their numbers, and what is written for people would go there.

    `gateway serve` holds signals until it can act on them. Any other command ends by a signal, also
    where whoever starts it blocks signals first (`env --block-signal`, as in our image).
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    gc.set_threshold(*_GC_THRESHOLDS)
    if sys.argv[1:2] == ["serve"]:
        held_signals.hold()
    else:
        held_signals.release()
    lean_imports.import_structlog()
    from gateway.cli.main import run

    sys.exit(run(sys.argv[1:]))
