"""The helpers that run programs, tested on programs of a few lines."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import (
    Program,
    ProgramError,
    free_ports,
    merge,
    running,
    running_gateway,
)

ECHO = "import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr)"
FOREVER = "import signal; print('up', flush=True); signal.pause()"
POLITE = (
    "import signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    "print('up', flush=True)\n"
    "signal.pause()\n"
)
STUBBORN = (
    "import signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\n"
    "while True: signal.pause()\n"
)


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


async def test_both_outputs_are_captured_to_the_last_line() -> None:
    async with running(python(ECHO)) as program:
        assert await program.wait() == 0
        assert (program.stdout, program.stderr) == (["to stdout"], ["to stderr"])
        assert program.is_over


async def test_a_line_is_found_before_and_after_it_was_asked_for() -> None:
    async with running(python(ECHO)) as program:
        assert (await program.wait_line(r"to std(\w+)"))[1] in {"out", "err"}
        await program.wait()
        assert (await program.wait_line(r"to stderr"))[0] == "to stderr"


async def test_a_line_that_never_comes_fails_with_the_output() -> None:
    async with running(python(ECHO)) as program:
        with pytest.raises(ProgramError, match=r"never printed 'absent'(?s:.*)to stdout"):
            await program.wait_line("absent")


async def test_a_line_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(python(FOREVER)) as program:
        await program.wait_line("up")
        monkeypatch.setattr(process, "WAIT_S", 0.0)
        with pytest.raises(ProgramError, match="never printed 'absent'"):
            await program.wait_line("absent")


async def test_stop_asks_politely_and_returns_the_exit_code() -> None:
    async with running(python(POLITE)) as program:
        await program.wait_line("up")
        assert await program.stop() == 7
        assert await program.stop() == 7, "a program that has ended is no error"


async def test_stop_fails_on_a_program_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(python(STUBBORN)) as program:
        await program.wait_line("up")
        monkeypatch.setattr(process, "STOP_S", 0.0)
        with pytest.raises(ProgramError, match="did not end"):
            await program.stop()


async def test_a_program_does_not_outlive_its_block() -> None:
    async with running(python(STUBBORN)) as program:
        await program.wait_line("up")
    assert program.process.returncode == -signal.SIGKILL


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="install what is tested first"):
        await Program.start([tmp_path / "absent"])


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_free_ports_avoid_those_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(50)) < low


def test_merging_replaces_leaves_and_keeps_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge(base, {"a": {"c": [3]}, "e": 5}) == {"a": {"b": 1, "c": [3]}, "d": 4, "e": 5}
    assert merge(base, {"a": None}) == {"a": None, "d": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


async def test_a_gateway_that_does_not_start_fails_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gateway"
    script.write_text("#!/bin/sh\necho no such key: lisssten >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(process, "COMMAND", script)
    with pytest.raises(ProgramError, match=r"did not become ready(?s:.*)lisssten"):
        async with running_gateway(tmp_path, {}):
            pass
