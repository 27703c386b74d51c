"""`gateway serve` as it is installed: signals, takeover, sockets from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml

from tests.support.child import Child, start_child
from tests.support.listening import until_refused
from tests.support.polling import until
from tests.support.process import (
    COMMAND,
    Program,
    free_ports,
    merge,
    running,
    running_gateway,
    workers_of,
)
from tests.support.sink import Answer, RawSink


def tree_in(folder: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    base = {
        "listen": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "limits": {"drain_delay": "0s", "drain_timeout": "5s", "max_connections": 1000},
        "state_dir": str(folder / "state"),
        "workers": 2,
    }
    return merge(base, changes)


@contextlib.asynccontextmanager
async def running_command(folder: Path, changes: Mapping[str, Any]) -> AsyncIterator[Program]:
    """Run `gateway serve` until the end of the block; it is ready when the block begins."""
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree_in(folder, changes)))
    async with running([COMMAND, "serve", "--config", file]) as program:
        await program.wait_line('"event": "ready"')
        yield program


def worker_pids(program: Program) -> set[int]:
    return {worker.pid for worker in workers_of(program.process.pid)}


async def test_after_sigterm_nothing_is_ready_but_everything_is_served_for_a_while(
    tmp_path: Path,
) -> None:
    listen, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    changes = {
        "listen": [{"address": listen}],
        "admin": {"address": admin},
        "limits": {"drain_delay": "10m"},
    }
    async with running_command(tmp_path, changes) as program:
        program.process.send_signal(signal.SIGTERM)
        await program.wait_line("draining")
        assert await ask(admin, "/readyz") == 503
        assert await ask(admin, "/livez") == 200
        assert await ask(listen, "/readyz") == 503
        assert await ask(listen, "/livez") == 200
        assert await program.stop() == 128 + signal.SIGTERM


async def ask(address: str, path: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(f"http://{address}{path}") as answer:
        return answer.status


async def test_a_request_in_flight_is_finished_while_the_gateway_drains(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    may_answer = asyncio.Event()
    async with RawSink(lambda _: Answer(wait_for=may_answer)) as sink:
        changes = {
            "listen": [{"address": listen}],
            "limits": {"drain_timeout": "1m"},
            "auth": {"receiver_keys": [{"name": "test", "key": "a-receiver-key"}]},
            "backends": {"otlp_http": {"urls": [sink.http_url]}},
        }
        async with running_command(tmp_path, changes) as program:
            sending = asyncio.create_task(send(listen, "a-receiver-key"))
            await sink.wait_for(1)
            program.process.send_signal(signal.SIGTERM)
            await until_refused(listen)
            may_answer.set()
            assert await sending == 200
            assert await program.wait() == 0


async def send(address: str, key: str) -> int:
    fields = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://{address}/v1/traces", data=b"{}", headers=fields) as answer,
    ):
        return answer.status


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    async with running_command(tmp_path, {"limits": {"drain_delay": "10m"}}) as program:
        workers = worker_pids(program)
        program.process.send_signal(signal.SIGTERM)
        await program.wait_line("draining")
        program.process.send_signal(signal.SIGINT)
        assert await program.wait() == 128 + signal.SIGINT
        assert not [pid for pid in workers if psutil.pid_exists(pid)]


async def test_sighup_reloads_and_a_faulty_file_is_told(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        before = worker_pids(gateway.program)
        gateway.program.process.send_signal(signal.SIGHUP)
        await gateway.program.wait_line("the configuration was reloaded")
        await until(lambda: not before & worker_pids(gateway.program))
        good = gateway.config_file.read_text()
        gateway.config_file.write_text("workers: many")
        gateway.program.process.send_signal(signal.SIGHUP)
        line = (await gateway.program.wait_line("reload failed")).string
        assert "workers (line 1): write auto or a number" in line
        gateway.config_file.write_text(good)


async def test_ctrl_c_in_a_terminal_reaches_workers_too_and_they_drain_all_the_same(
    tmp_path: Path,
) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        for pid in (*worker_pids(gateway.program), gateway.program.process.pid):
            os.kill(pid, signal.SIGINT)
        assert await gateway.program.wait() == 0
        assert '"workers_killed": 0' in gateway.program.output


async def test_workers_of_a_killed_control_let_go_and_a_new_one_takes_over(tmp_path: Path) -> None:
    listen = {"listen": [{"address": f"127.0.0.1:{free_ports(1)[0]}"}]}
    async with running_command(tmp_path, listen) as first:
        workers = worker_pids(first)
        first.process.kill()
        async with running_command(tmp_path, listen) as second:
            await until(lambda: not any(map(psutil.pid_exists, workers)))
            assert await first.wait() == -signal.SIGKILL
            assert await second.stop() == 0


async def test_keys_made_and_deleted_by_command_count_in_every_worker_when_it_returns(
    tmp_path: Path,
) -> None:
    async with running_gateway(tmp_path, {}) as gateway:
        listen = f"127.0.0.1:{gateway.port}"
        options = ["--config", str(gateway.config_file), "--output", "json"]
        made = json.loads(await run_command("keys", "create", "--name", "agent", *options))
        key = made["ingestion-api-key"]
        statuses = await asyncio.gather(*(send(listen, key["apiKey"]) for _ in range(16)))
        assert set(statuses) == {503}  # the key is good, but there is no backend
        await run_command("keys", "delete", "--id", str(key["id"]), *options)
        statuses = await asyncio.gather(*(send(listen, key["apiKey"]) for _ in range(16)))
        assert set(statuses) == {401}
        assert key["apiKey"] not in gateway.program.output


async def run_command(*arguments: str) -> str:
    """Run `gateway` to its end and return what it prints; it must succeed and say nothing else."""
    async with running([COMMAND, *arguments]) as program:
        assert await program.wait() == 0, program.output
        assert program.stderr == []
        return "\n".join(program.stdout)


async def test_a_signal_during_the_start_ends_it_in_order(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree_in(tmp_path, {})))
    async with running([COMMAND, "serve", "--config", file]) as program:
        await program.wait_line("otlp-gateway starts")
        await until(lambda: bool(worker_pids(program)))
        workers = worker_pids(program)
        assert await program.stop() == 0
        assert not [pid for pid in workers if psutil.pid_exists(pid)]


@pytest.mark.parametrize("family", [socket.AF_INET6, socket.AF_INET])
async def test_all_addresses_are_those_of_the_versions_of_ip_that_there_are(
    tmp_path: Path, family: socket.AddressFamily
) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "gateway.yaml"
    host = "127.0.0.1" if family is socket.AF_INET6 else "[::1]"
    changes = {"listen": [{"address": f":{port}"}], "admin": {"address": f"{host}:0"}}
    file.write_text(yaml.safe_dump(tree_in(tmp_path, changes)))
    without = [sys.executable, "-m", "tests.support.without_family", str(int(family))]
    async with running([*without, COMMAND, "serve", "--config", file]) as program:
        await program.wait_line('"event": "ready"')
        assert await ask(f"{host}:{port}", "/readyz") == 200
        assert await program.stop() == 0


async def test_a_start_that_fails_exits_with_1_and_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(tree_in(tmp_path, {"admin": {"address": address}})))
        async with running([COMMAND, "serve", "--config", file]) as program:
            assert await program.wait() == 1
            assert f"cannot listen on {address}: Address already in use" in program.output


async def test_a_socket_of_systemd_keeps_connections_while_the_gateway_is_away(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as given:
        address = f"127.0.0.1:{given.getsockname()[1]}"
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(tree_in(tmp_path, {"listen": [{"address": address}]})))
        handing_over = (
            "import os, sys\n"
            "os.dup2(int(sys.argv[1]), 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        command = ["-c", handing_over, given.fileno(), COMMAND, "serve", "--config", file]
        reader, writer = await asyncio.open_connection(*given.getsockname())
        writer.write(b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        async with running_with_fd(command, given.fileno()) as program:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            writer.close()
            await writer.wait_closed()
            program.terminate()
            assert await program.wait() == 0


@contextlib.asynccontextmanager
async def running_with_fd(arguments: list[object], fd: int) -> AsyncIterator[Child]:
    process = await start_child(
        sys.executable, *map(str, arguments), pass_fds=(fd,), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
