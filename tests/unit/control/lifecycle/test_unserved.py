from __future__ import annotations

import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway import metrics
from gateway.control.lifecycle.data_listeners import DataListeners
from gateway.control.lifecycle.unserved import DARK_S, UnservedConnections
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.workers.worker_set import WorkerSet
from tests.support.config import config_from


async def test_who_waits_is_disconnected_when_no_worker_has_accepted_for_long(
    tmp_path: Path,
) -> None:
    now = 1000.0
    listeners, totals = DataListeners([]), MetricTotals()
    [[bound]] = await listeners.bind(
        config_from(tmp_path, {"listen": [{"address": "127.0.0.1:0"}]})
    )
    unserved = UnservedConnections(WorkerSet(1), listeners, totals, lambda: now)
    with socket.create_connection(bound.sock.getsockname()) as client, capture_logs() as logs:
        client.settimeout(0)
        now += DARK_S
        unserved.look()
        with pytest.raises(BlockingIOError):
            client.recv(1)
        now += 0.1
        unserved.look()
        unserved.look()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    labels = ("no_worker",)
    assert totals.counters(metrics.CONNECTIONS_REFUSED)[labels] == 1
    assert len(logs) == 1
    assert "no worker accepts connections" in logs[0]["event"]
    listeners.close()
    unserved.look()
