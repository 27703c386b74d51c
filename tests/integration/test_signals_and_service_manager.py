"""Signals from the first moment on, process 1, and what systemd is told: with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.integration.test_serve import tree_in
from tests.support.namespaces import unshare
from tests.support.polling import until
from tests.support.process import COMMAND, Program, running

BLOCKED = ("env", "--block-signal=HUP,INT,TERM")
"""How our image starts the gateway."""
PROCESS_1 = ("--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree_in(tmp_path, {"workers": 1})))
    return file


def _blocked_signals(pid: int) -> set[int]:
    """Return the signals that a process blocks (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    bits = int(mask.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def _child_of(pid: int) -> int | None:
    children = psutil.Process(pid).children()
    return children[0].pid if children else None


async def _until_blocked(pid: int) -> None:
    def is_blocked() -> bool:
        # `unshare` blocks it for a moment, too, before it runs the command.
        is_started = psutil.Process(pid).name() != "unshare"
        return is_started and signal.SIGTERM in _blocked_signals(pid)

    await until(is_blocked)


async def test_a_hangup_before_anything_is_imported_reloads_when_the_gateway_is_ready(
    config: Path,
) -> None:
    async with running([*BLOCKED, COMMAND, "serve", "--config", config]) as program:
        await _until_blocked(program.process.pid)
        program.process.send_signal(signal.SIGHUP)
        await program.wait_line('"event": "ready"')
        await program.wait_line("the configuration was reloaded")
        assert await program.stop() == 0


async def test_a_hangup_and_a_termination_before_anything_is_imported_end_it_in_order(
    config: Path,
) -> None:
    async with running([*BLOCKED, COMMAND, "serve", "--config", config]) as program:
        await _until_blocked(program.process.pid)
        program.process.send_signal(signal.SIGHUP)
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
        assert "received a signal to stop" in program.output


async def test_the_command_itself_holds_signals_while_it_imports(config: Path) -> None:
    async with running([COMMAND, "serve", "--config", config]) as program:
        await _until_blocked(program.process.pid)
        program.process.send_signal(signal.SIGHUP)
        await program.wait_line("the configuration was reloaded")
        assert not _blocked_signals(program.process.pid) & {signal.SIGHUP, signal.SIGTERM}
        assert await program.stop() == 0


async def test_other_commands_end_by_a_signal_though_whoever_starts_them_blocks_it() -> None:
    command: list[str | Path] = [*BLOCKED, COMMAND, "receive", "--listen", "127.0.0.1:0"]
    async with running(command) as program:
        await until(lambda: signal.SIGTERM not in _blocked_signals(program.process.pid))
        program.process.send_signal(signal.SIGTERM)
        await program.wait()  # fails where it goes on


@contextlib.asynccontextmanager
async def _process_1(arguments: list[str | Path]) -> AsyncIterator[tuple[Program, int]]:
    """Run a command as process 1 of its own namespace; yields also its pid outside."""
    async with running([*unshare(), *PROCESS_1, *arguments]) as program:
        found: list[int] = []

        def is_there() -> bool:
            child = _child_of(program.process.pid)
            found[:] = [] if child is None else [child]
            return child is not None

        await until(is_there)
        yield program, found[0]


@pytest.mark.parametrize("before", [BLOCKED, ()], ids=["held for it", "held by itself"])
async def test_a_termination_at_the_start_ends_process_1(
    config: Path, before: tuple[str, ...]
) -> None:
    async with _process_1([*before, COMMAND, "serve", "--config", config]) as (program, pid):
        await _until_blocked(pid)
        os.kill(pid, signal.SIGTERM)
        assert await program.wait() == 0
        assert "received a signal to stop" in program.output


async def test_process_1_reloads_and_replaces_workers_and_ends(config: Path) -> None:
    async with _process_1([COMMAND, "serve", "--config", config]) as (program, pid):
        await program.wait_line('"event": "ready"')
        os.kill(pid, signal.SIGHUP)
        await program.wait_line("the configuration was reloaded")
        victim = psutil.Process(pid).children()[0]
        victim.kill()
        await until(lambda: not victim.is_running())  # not even as a zombie
        await until(lambda: bool(set(psutil.Process(pid).children()) - {victim}))
        os.kill(pid, signal.SIGTERM)
        assert await program.wait() == 0


async def test_process_1_collects_the_orphans_that_it_inherits(config: Path) -> None:
    # The shell is process 1 and becomes the gateway; what its child leaves behind is an orphan.
    script = '(sleep 3600 &) ; exec "$@"'
    command: list[str | Path] = ["sh", "-c", script, "sh", COMMAND, "serve", "--config", config]
    async with _process_1(command) as (program, pid):
        await program.wait_line('"event": "ready"')
        orphan = next(child for child in psutil.Process(pid).children() if child.name() == "sleep")
        orphan.kill()
        await until(lambda: not psutil.pid_exists(orphan.pid))
        os.kill(pid, signal.SIGTERM)
        assert await program.wait() == 0


@pytest.fixture(name="manager")
def _manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


async def _next_of(manager: socket.socket) -> dict[str, str]:
    """Return what comes next that is no sign of life."""
    while True:
        text = (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()
        told = dict(line.split("=", 1) for line in text.splitlines())
        if told != {"WATCHDOG": "1"}:
            return told


async def test_systemd_is_told_of_start_reload_and_stop(
    config: Path, manager: socket.socket
) -> None:
    env = os.environ | {"NOTIFY_SOCKET": str(config.parent / "notify")}
    async with running([COMMAND, "serve", "--config", config], env=env) as program:
        told = await _next_of(manager)
        assert told == {"READY": "1", "STATUS": "workers that accept connections: 1"}
        program.process.send_signal(signal.SIGHUP)
        begun = await _next_of(manager)
        assert (begun["RELOADING"], begun["MONOTONIC_USEC"].isdecimal()) == ("1", True)
        assert (await _next_of(manager))["READY"] == "1"
        config.write_text("workers: many")
        program.process.send_signal(signal.SIGHUP)
        assert "RELOADING" in await _next_of(manager)
        failed = await _next_of(manager)
        assert failed["READY"] == "1"
        assert "write auto or a number" in failed["STATUS"]
        program.process.send_signal(signal.SIGTERM)
        assert (await _next_of(manager))["STOPPING"] == "1"
        assert await program.wait() == 0


async def test_the_watchdog_hears_from_the_gateway_again_and_again(
    config: Path, manager: socket.socket
) -> None:
    env = os.environ | {
        "NOTIFY_SOCKET": str(config.parent / "notify"),
        "WATCHDOG_USEC": "300000",
    }
    env.pop("WATCHDOG_PID", None)
    async with running([COMMAND, "serve", "--config", config], env=env) as program:
        loop = asyncio.get_running_loop()
        signs = 0
        while signs < 5:
            signs += await loop.sock_recv(manager, 4096) == b"WATCHDOG=1"
        assert await program.stop() == 0


async def test_a_gateway_whose_manager_is_gone_runs_all_the_same(config: Path) -> None:
    env = os.environ | {"NOTIFY_SOCKET": "@nobody-listens-here", "WATCHDOG_USEC": "1000"}
    async with running([COMMAND, "serve", "--config", config], env=env) as program:
        await program.wait_line('"event": "ready"')
        assert await program.stop() == 0
