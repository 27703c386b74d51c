"""A process that asks for places within keys' limits at the same moment as others.

    python -m tests.support.quota_racer TABLE_FD COLUMNS COLUMN PROGRESS_FD RACERS ROUNDS LIMITS

In each round, which all begin together, it asks three times for one key, whose LIMITS are
"requests,concurrent", and keeps what it gets. It writes how often it got something in each round.
"""

from __future__ import annotations

import json
import mmap
import sys
import time
from typing import Final

from gateway.dataplane.core.counters import Counters
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.dataplane.exchange.quotas import Quotas
from gateway.model import KeyLimits
from gateway.settings import PerKeyLimits, QuotaPlace

ATTEMPTS: Final = 3
STOPPED_S: Final = 1_000.0
"""What the clock shows: only decisions are compared, nobody measures."""


def main(arguments: list[str]) -> None:
    """Race; see the module."""
    table, columns, column, progress_fd, racers, rounds = map(int, arguments[:6])
    requests, concurrent = map(int, arguments[6].split(","))
    limits = KeyLimits(requests=requests, bytes=0, concurrent=concurrent)
    rows = QuotaRows.shared(QuotaPlace(table, columns, column))
    worker = Quotas(PerKeyLimits(), rows, Counters(), lambda: STOPPED_S)
    progress = memoryview(mmap.mmap(progress_fd, racers * 8)).cast("q")
    got = []
    for number in range(1, rounds + 1):
        progress[column] = number
        while min(progress) < number:
            time.sleep(0)
        admitted = [worker.admit(str(number), limits) for _ in range(ATTEMPTS)]
        got.append(sum(lease is not None for lease in admitted))
    sys.stdout.write(json.dumps(got))


if __name__ == "__main__":
    main(sys.argv[1:])
