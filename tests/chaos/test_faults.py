"""Everything around the gateway, and parts of it, fail while a Collector, the Python SDK and
clients of the tests' own send numbered items: whatever was acknowledged has arrived, every error is
one that senders retry on, and each answer is its own request's.

`make chaos SECONDS=60` lets each fault last so long.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import pytest
import yaml

from tests.support.clients import http1_request
from tests.support.collector import DROPPED, running_collector
from tests.support.numbered_backend import arrived
from tests.support.numbered_senders import NumberedSenders, exporters
from tests.support.polling import until
from tests.support.postgresql import PostgresqlServer, postgresql_server
from tests.support.process import (
    COMMAND,
    Program,
    configuration,
    free_ports,
    merge,
    running,
    workers_of,
)
from tests.support.tools import find_tool

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "6"))
"""How long each fault lasts, or comes again and again."""
AWAY_S: Final = SECONDS / 3
"""How long something stays away or frozen."""
DELIVERY_S: Final = 60.0
"""Until a Collector has delivered all that it has; only taken by a test that fails."""
BACKEND: Final = (sys.executable, "-m", "tests.support.numbered_backend")


@dataclass(slots=True)
class Scene:
    """What can fail."""

    config: Path
    admin_port: int
    gateway: Program
    backend_command: list[str | Path]
    backend: Program
    servers: Sequence[PostgresqlServer]
    """The gateway's PostgreSQL, and the standby that follows it where a fault needs one."""

    def signal_gateway(self, number: signal.Signals) -> None:
        """Send a signal to control."""
        self.gateway.process.send_signal(number)

    def signal_backend(self, number: signal.Signals) -> None:
        """Send a signal to the backend."""
        self.backend.process.send_signal(number)

    async def start_gateway(self) -> None:
        """Start it in place of the one before."""
        self.gateway = await Program.start([COMMAND, "serve", "--config", self.config])
        await self.gateway.wait_line('"event": "ready"')

    async def start_backend(self) -> None:
        """Start it in place of the one before."""
        self.backend = await Program.start(self.backend_command)
        await self.backend.wait_line("ready")

    async def store_revision(self) -> int:
        """Return the revision of the key store that all workers have."""
        answer = await http1_request(self.admin_port, "/readyz", (), method="GET")
        (store,) = json.loads(answer.body)["stores"]
        return int(store["revision"] or 0)

    def workers(self) -> set[int]:
        """Return the pids of the gateway's workers."""
        return {worker.pid for worker in workers_of(self.gateway.process.pid)}


Fault = Callable[[Scene], Awaitable[None]]


async def _again_and_again(every_s: float, happens: Callable[[], Awaitable[None]]) -> None:
    """Let it happen for as long as a fault lasts, at least once."""
    loop = asyncio.get_running_loop()
    over_s = loop.time() + SECONDS
    while True:
        await happens()
        await asyncio.sleep(every_s)
        if loop.time() >= over_s:
            return


async def workers_are_killed(scene: Scene) -> None:
    async def kill_one() -> None:
        victim = min(scene.workers())
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(scene.workers() - {victim}) == 2, "another worker")

    await _again_and_again(1.0, kill_one)


async def the_gateway_is_reloaded(scene: Scene) -> None:
    async def reload() -> None:
        scene.signal_gateway(signal.SIGHUP)

    await _again_and_again(2.0, reload)
    await scene.gateway.wait_line("the configuration was reloaded")


async def control_is_killed_and_started_again(scene: Scene) -> None:
    async def kill() -> None:
        scene.gateway.process.kill()
        await scene.gateway.wait()
        await scene.start_gateway()

    await _again_and_again(AWAY_S, kill)


async def control_freezes(scene: Scene) -> None:
    scene.signal_gateway(signal.SIGSTOP)
    await asyncio.sleep(SECONDS)
    scene.signal_gateway(signal.SIGCONT)


async def the_backend_is_killed_and_started_again(scene: Scene) -> None:
    async def kill() -> None:
        await scene.backend.kill()
        await asyncio.sleep(AWAY_S / 2)
        await scene.start_backend()

    await _again_and_again(AWAY_S, kill)


async def the_backend_freezes(scene: Scene) -> None:
    scene.signal_backend(signal.SIGSTOP)
    await asyncio.sleep(SECONDS)
    scene.signal_backend(signal.SIGCONT)


async def the_backend_sends_goaway(scene: Scene) -> None:
    async def end_connections() -> None:
        scene.signal_backend(signal.SIGUSR1)

    await _again_and_again(0.5, end_connections)


async def postgresql_is_killed_and_started_again(scene: Scene) -> None:
    async def kill() -> None:
        await asyncio.to_thread(scene.servers[0].kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(scene.servers[0].start)

    await _again_and_again(AWAY_S, kill)


async def postgresql_freezes(scene: Scene) -> None:
    scene.servers[0].freeze()
    try:
        await asyncio.sleep(SECONDS)
    finally:
        scene.servers[0].thaw()


async def postgresql_fails_over(scene: Scene) -> None:
    primary, standby = scene.servers
    await asyncio.to_thread(primary.kill)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(standby.promote)
    await _new_key(scene.config)  # it can be written,
    async with asyncio.timeout(DELIVERY_S):
        while await scene.store_revision() < 2:  # and what is written is followed
            await asyncio.sleep(0.05)


FAULTS: Final[tuple[Fault, ...]] = (
    workers_are_killed,
    the_gateway_is_reloaded,
    control_is_killed_and_started_again,
    control_freezes,
    the_backend_is_killed_and_started_again,
    the_backend_freezes,
    the_backend_sends_goaway,
    postgresql_is_killed_and_started_again,
    postgresql_freezes,
    postgresql_fails_over,
)


@pytest.mark.timeout(2 * DELIVERY_S + 4 * SECONDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_nothing_that_was_acknowledged_is_lost_while(
    fault: Fault, server: PostgresqlServer, tmp_path: Path
) -> None:
    collector_program = find_tool("otelcol")
    ports = free_ports(5)
    arrivals = tmp_path / "arrivals"
    backend_command: list[str | Path] = [*BACKEND, *map(str, ports[3:]), arrivals]
    with _servers(server, has_standby=fault is postgresql_fails_over) as servers:
        url = await _new_database(servers)
        config = _configure(tmp_path, ports, url)
        authorization = f"StackState {await _new_key(config)}"
        await _until_copied(url, servers)
        part = exporters(ports[0], authorization)
        async with (
            _running_scene(config, ports[2], backend_command, servers) as scene,
            running_collector(collector_program, tmp_path, part, ["logs"]) as collector,
        ):
            senders = NumberedSenders(ports[0], authorization, collector)
            senders.start()
            await _until_more(senders)
            await fault(scene)
            await _until_more(senders)
            await senders.stop()
            async with asyncio.timeout(DELIVERY_S):
                while not senders.handed_over <= set(arrived(arrivals)):
                    await asyncio.sleep(0.1)
            _report(fault, senders, arrivals)
            assert senders.wrong == []
            assert senders.accepted <= set(arrived(arrivals))
            assert not collector.logged(DROPPED)


@contextmanager
def _servers(
    server: PostgresqlServer, *, has_standby: bool
) -> Iterator[Sequence[PostgresqlServer]]:
    """Return the one of all tests, or a primary and a standby that may end otherwise."""
    if not has_standby:
        yield [server]
        return
    with postgresql_server() as primary, postgresql_server(primary) as standby:
        yield [primary, standby]


async def _new_database(servers: Sequence[PostgresqlServer]) -> str:
    """Make one on the first server; return a url that names all of them."""
    url = await servers[0].new_database()
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    database = url.rpartition("/")[2]
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"


async def _until_copied(url: str, servers: Sequence[PostgresqlServer]) -> None:
    """Wait until the standby, if there is one, has the key."""
    database = url.rpartition("/")[2].partition("?")[0]
    for server in servers[1:]:
        async with asyncio.timeout(DELIVERY_S):
            while not await _has_key(server.url(database)):
                await asyncio.sleep(0.05)


async def _has_key(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.PostgresError:  # the database is not there yet
        return False
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM gateway_keys"))
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()


def _configure(folder: Path, ports: list[int], url: str) -> Path:
    changes = {
        "auth": {"receiver_keys": []},
        "backends": {
            "otlp_grpc": {"urls": [f"http://127.0.0.1:{ports[3]}"]},
            "otlp_http": {"urls": [f"http://127.0.0.1:{ports[4]}"]},
        },
        "keys": {"stores": [url]},
        "limits": {"request_timeout": "3s"},  # so that senders are answered while it is frozen
    }
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(merge(configuration(folder, ports, None), changes)))
    return file


async def _new_key(config: Path) -> str:
    create: list[str | Path] = [COMMAND, "keys", "create", "--config", config]
    async with running([*create, "--name", "numbered", "--output", "json"]) as program:
        assert await program.wait() == 0, program.output
    key = json.loads("\n".join(program.stdout))["ingestion-api-key"]["apiKey"]
    assert isinstance(key, str)
    return key


@asynccontextmanager
async def _running_scene(
    config: Path,
    admin_port: int,
    backend_command: list[str | Path],
    servers: Sequence[PostgresqlServer],
) -> AsyncIterator[Scene]:
    """Run backend and gateway, or what a fault has put in their places; both must end well."""
    serve: list[str | Path] = [COMMAND, "serve", "--config", config]
    async with running(backend_command) as backend, running(serve) as gateway:
        await backend.wait_line("ready")
        await gateway.wait_line('"event": "ready"')
        scene = Scene(config, admin_port, gateway, backend_command, backend, servers)
        try:
            yield scene
            assert await scene.gateway.stop() == 0, scene.gateway.output
            assert await scene.backend.stop() == 0, scene.backend.output
        finally:
            await scene.gateway.kill()
            await scene.backend.kill()


async def _until_more(senders: NumberedSenders) -> None:
    """Return when many more items were acknowledged over each protocol."""
    wanted = {protocol: senders.count(protocol) + 50 for protocol in ("grpc", "http")}
    await until(
        lambda: all(senders.count(protocol) > count for protocol, count in wanted.items()),
        "items are acknowledged",
    )


def _report(fault: Fault, senders: NumberedSenders, arrivals: Path) -> None:
    """Print what a sender saw; pytest shows it with -rP, and where the test fails."""
    came = arrived(arrivals)
    sent = len(senders.accepted | senders.handed_over)
    twice = sum(count > 1 for count in came.values())
    errors = ", ".join(f"{count} × {what}" for what, count in sorted(senders.retryable.items()))
    print(  # noqa: T201 - as said
        f"{fault.__name__}: {sent} items acknowledged, {twice} arrived more than once; "
        f"retryable errors: {errors or 'none'}"
    )
