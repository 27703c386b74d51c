"""The attacker's process: `python -m bench.hostile.attacker NAME TARGET SECONDS`."""

from __future__ import annotations

import os
import sys
from typing import Final

from bench.hostile.attack import Target
from bench.hostile.attacks import BY_NAME

_NICE: Final = 5
"""It shares a core with the well-behaved clients, whose waits are to be the gateway's; not the
lowest, or nothing is sent where other programs are busy.
"""


def main() -> int:
    """Run the command; prints one line of JSON about what was sent."""
    name, target, seconds = sys.argv[1:]
    os.nice(_NICE)
    print(BY_NAME[name].send(Target.from_json(target), float(seconds)).to_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
