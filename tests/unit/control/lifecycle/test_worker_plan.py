from __future__ import annotations

from pathlib import Path

from gateway.control.core.sockets import BoundSocket, ListenSockets
from gateway.control.lifecycle.worker_plan import upstream_connections, worker_plan
from tests.support.config import config_from


async def test_each_worker_gets_its_index_the_sockets_and_its_share(tmp_path: Path) -> None:
    limits = {"max_connections": 100, "max_connections_per_address": 10, "drain_timeout": "7s"}
    config = config_from(tmp_path, {"limits": limits})
    held = ListenSockets()
    sockets: list[list[BoundSocket]] = await held.bind(["127.0.0.1:0", "127.0.0.1:0"])
    plan = worker_plan(config, sockets, "console", {})
    assert (plan.workers, plan.drain_timeout_s) == (3, 7.0)
    workers = [plan.settings(index, 99) for index in range(3)]
    assert [worker.index for worker in workers] == [0, 1, 2]
    assert {worker.counts_fd for worker in workers} == {99}
    assert {worker.limits.max_connections for worker in workers} == {34}
    assert {worker.limits.max_connections_per_address for worker in workers} == {4}
    assert {worker.log_format for worker in workers} == {"console"}
    fds = [bound.sock.fileno() for [bound] in sockets]
    assert [listener.fd for listener in workers[0].listeners] == fds
    assert [each.address for each in workers[0].listeners] == [
        listener.address for listener in config.listen
    ]
    held.close()


def test_the_connections_to_all_backends_are_counted(tmp_path: Path) -> None:
    backends = {
        "otlp_grpc": {"urls": ["http://a:4317", "http://b:4317"], "max_connections": 4},
        "otlp_http": {"urls": ["https://[::1]/prefix"], "max_connections": 5},
    }
    assert upstream_connections(config_from(tmp_path, {"backends": backends})) == 9
