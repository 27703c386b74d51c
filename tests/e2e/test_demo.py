"""`gateway demo` as installed: what it prints can be pasted, what it shows is what happened."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import psutil
import pytest
import yaml

from gateway.sender.target import Tls
from tests.support.process import COMMAND, Program, running

BEGIN = "Requests that arrive or are refused"
KEY = re.compile(r"iapikey-[0-9A-Za-z]{38}")


class Demo:
    """A running demo and what it has printed above its live view."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @property
    def banner(self) -> str:
        lines = self.program.stdout
        return "\n".join(lines[: next(i for i, line in enumerate(lines) if BEGIN in line)])

    @property
    def keys(self) -> set[str]:
        """Every key that stands in the banner."""
        return set(KEY.findall(self.banner))

    def command(self, start: str) -> str:
        """The one line that begins with `start`, to be pasted."""
        (line,) = [line for line in self.banner.splitlines() if line.startswith(start)]
        return line

    def snippet(self, name: str) -> str:
        """The Collector configuration between its marks."""
        found = re.search(f"# -+ begin {name} -+\n(.*)# -+ end {name} -+", self.banner, re.DOTALL)
        assert found is not None
        return found[1]

    @property
    def admin_url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+(?=/readyz)", self.banner)
        assert found is not None
        return found[0]

    def ports(self) -> list[int]:
        """The ports of the gateway: cleartext twice, TLS, admin."""
        head = self.banner[: self.banner.index("# -----")]
        ports = (int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", head))
        return list(dict.fromkeys(ports))

    async def shown(self, pattern: str) -> None:
        """Wait for a line of the live view."""
        await self.program.wait_line(pattern)


@asynccontextmanager
async def _demo(
    folder: Path, *options: str, end: signal.Signals = signal.SIGINT
) -> AsyncIterator[Demo]:
    """Run a demo; at the end the signal must end it, and its workers with it."""
    async with running([COMMAND, "demo", "--data", folder, *options]) as program:
        await program.wait_line(BEGIN)
        workers = psutil.Process(program.process.pid).children(recursive=True)
        assert len(workers) >= 2
        yield Demo(program)
        assert await program.stop(end) == 0
        assert program.stderr == []
        gone, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive, gone


@pytest.fixture(name="demo")
async def _fixture(tmp_path: Path) -> AsyncIterator[Demo]:
    async with _demo(tmp_path / "demo") as demo:
        yield demo


async def _paste(line: str, **environ: str) -> str:
    """Give a line to the shell, as a user does, and return what it printed; it must succeed."""
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    env: Mapping[str, str] = {**os.environ, "PATH": path, **environ}
    shell = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
    )
    out, err = await asyncio.wait_for(shell.communicate(), 30)
    assert shell.returncode == 0, (out, err)
    return out.decode()


async def test_the_curl_line_works_as_printed_and_its_span_is_shown(demo: Demo) -> None:
    answer = await _paste(demo.command("curl "))
    assert answer.startswith("HTTP/1.1 200")
    assert answer.endswith("{}")
    await demo.shown(r"accepted +traces +curl +1 span .* http +key demo$")


async def test_the_send_line_works_as_printed_over_tls(demo: Demo) -> None:
    answer = await _paste(demo.command("GATEWAY_KEY="))
    assert "4 of 4 requests accepted" in answer
    for shown in ("traces", "metrics", "logs", "profiles"):
        await demo.shown(rf"accepted +{shown} +gateway-send .* grpc +key demo$")


async def test_a_refused_request_is_shown_with_its_reason_and_its_sender(demo: Demo) -> None:
    (key,) = demo.keys
    wrong = demo.command("curl ").replace(key, "made-up-key")
    assert (await _paste(wrong)).startswith("HTTP/1.1 401")
    await demo.shown(r"refused +traces +the API key is unknown +from 127\.0\.0\.1:\d+, by http")
    missing = demo.command("curl ").replace(f"-H 'Authorization: StackState {key}'", "")
    assert (await _paste(missing)).startswith("HTTP/1.1 401")
    await demo.shown(r"refused +traces +no API key in the request +from 127\.0\.0\.1")


async def test_a_key_made_while_it_runs_is_good_at_once_and_shown_by_its_name(demo: Demo) -> None:
    _, _, new_key = demo.banner.partition("create another key: ")
    create = new_key.splitlines()[0].replace("NAME", "second")
    made = KEY.search(await _paste(create))
    assert made is not None
    (first,) = demo.keys
    assert (await _paste(demo.command("curl ").replace(first, made[0]))).startswith("HTTP/1.1 200")
    await demo.shown(r"accepted +traces +curl .* key second$")


async def test_the_snippets_are_whole_configurations_for_where_the_demo_listens(
    demo: Demo,
) -> None:
    (key,) = demo.keys
    grpc, _, tls, _ = demo.ports()
    secure = yaml.safe_load(demo.snippet("collector-tls.yaml"))
    assert secure["extensions"]["bearertokenauth"] == {"scheme": "StackState", "token": key}
    exporter = secure["exporters"]["otlp/stackstate"]
    assert exporter["endpoint"] == f"127.0.0.1:{tls}"
    Tls(Path(exporter["tls"]["ca_file"])).context("h2")  # raises when it is no CA file
    cleartext = yaml.safe_load(demo.snippet("collector-cleartext.yaml"))
    exporter = cleartext["exporters"]["otlp/stackstate"]
    assert exporter["endpoint"] == f"127.0.0.1:{grpc}"
    assert exporter["headers"] == {"Authorization": f"StackState {key}"}


async def test_the_admin_url_answers(demo: Demo) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{demo.admin_url}/readyz") as response:
            assert response.status == 200
        async with client.get(f"{demo.admin_url}/metrics") as response:
            assert "gateway_requests_total" in await response.text()


async def test_a_later_start_keeps_key_and_ca_and_shows_the_key_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    async with _demo(folder) as demo:
        (key,) = demo.keys
        ca = (folder / "ca.crt").read_bytes()
    async with _demo(folder) as demo:
        assert demo.keys == set()
        assert "cannot be shown again" in demo.banner
        assert (folder / "ca.crt").read_bytes() == ca
        assert "${env:GATEWAY_KEY}" in demo.snippet("collector-tls.yaml")
        curl = await _paste(demo.command("curl "), GATEWAY_KEY=key)
        assert curl.startswith("HTTP/1.1 200")
        send = demo.command(shlex.quote(str(COMMAND)) + " send")
        assert "4 of 4 requests accepted" in await _paste(send, GATEWAY_KEY=key)


async def test_the_key_is_kept_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    async with _demo(folder) as demo:
        (key,) = demo.keys
        await _paste(demo.command("curl "))
        await demo.shown("accepted +traces")
        live = demo.program.output[len(demo.banner) :]
        assert key not in live
    for file in folder.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


async def test_taken_ports_are_replaced_in_the_snippets_too(tmp_path: Path) -> None:
    usual = (4317, 4318, 4443, 8090)
    with ExitStack() as taken:
        for port in usual:
            # Whoever else listens there takes it just as well.
            with suppress(OSError):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        async with _demo(tmp_path / "demo") as demo:
            assert not set(demo.ports()) & set(usual)
            assert len(set(demo.ports())) == 4
            assert (await _paste(demo.command("curl "))).startswith("HTTP/1.1 200")
            assert "4 of 4" in await _paste(demo.command("GATEWAY_KEY="))


async def test_two_demos_do_not_share_a_folder(demo: Demo, tmp_path: Path) -> None:
    async with running([COMMAND, "demo", "--data", tmp_path / "demo"]) as second:
        assert await second.wait() == 1
    assert "another demo uses" in second.output
    assert "--data" in second.output
    assert not demo.program.is_over


async def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    async with running([COMMAND, "demo", "--data", file]) as program:
        assert await program.wait() == 1
    assert "is not a directory: choose another one with --data" in program.output


async def test_a_folder_that_cannot_be_made_is_told() -> None:
    async with running([COMMAND, "demo", "--data", Path("/proc/otlp-gateway")]) as program:
        assert await program.wait() == 1
    assert "[ERROR] /proc/otlp-gateway cannot be used: " in program.output
    assert "Choose another directory with --data" in program.output


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
async def test_it_ends_as_well_when_it_is_killed_or_its_terminal_is_closed(
    tmp_path: Path, end: signal.Signals
) -> None:
    async with _demo(tmp_path / "demo", end=end) as demo:
        assert demo.keys


async def test_a_second_signal_does_not_wait_for_what_is_in_flight(tmp_path: Path) -> None:
    async with running([COMMAND, "demo", "--data", tmp_path / "demo"]) as program:
        await program.wait_line(BEGIN)
        demo = Demo(program)
        (key,) = demo.keys
        _, writer = await asyncio.open_connection("127.0.0.1", demo.ports()[0])
        writer.write(
            b"POST /v1/logs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Authorization: StackState " + key.encode() + b"\r\nContent-Length: 9\r\n\r\n{"
        )
        await writer.drain()
        await _in_flight(demo)
        program.process.send_signal(signal.SIGINT)
        await program.wait_line("^Stopping")
        assert await program.stop(signal.SIGINT) == 130
        writer.close()


async def _in_flight(demo: Demo) -> None:
    """Wait until the gateway's metrics have a request that has no end yet."""
    async with aiohttp.ClientSession() as client, asyncio.timeout(30):
        while True:
            async with client.get(f"{demo.admin_url}/metrics") as response:
                text = await response.text()
            if re.search(r'^gateway_requests_in_flight{protocol="http"} 1', text, re.MULTILINE):
                return
            await asyncio.sleep(0.05)


async def test_it_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    demo = await asyncio.create_subprocess_exec(
        COMMAND, "demo", "--data", tmp_path / "demo", stdout=writer
    )
    try:
        os.close(writer)
        banner = b""
        while BEGIN.encode() not in banner:
            banner += await asyncio.to_thread(os.read, reader, 65536)
        os.close(reader)
        line = next(line for line in banner.decode().splitlines() if line.startswith("curl "))
        await _paste(f"{line} || true")
        assert await asyncio.wait_for(demo.wait(), 30) == 0
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()


async def test_a_quiet_demo_puts_what_is_to_be_pasted_into_files(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    paste = folder / "paste"
    for start in range(2):
        async with _demo(folder, "--quiet") as demo:
            assert len(demo.banner.splitlines()) < 12
            assert not demo.keys
            assert (await _paste(f"sh {paste}/curl.sh")).startswith("HTTP/1.1 200"), start
            await demo.shown(r"accepted +traces +curl +1 span .* key demo$")
            assert "4 of 4 requests accepted" in await _paste(f"sh {paste}/send.sh")
            key = (paste / "key.txt").read_text().strip()
            secure = yaml.safe_load((paste / "collector-tls.yaml").read_text())
            assert secure["extensions"]["bearertokenauth"]["token"] == key
    assert {file.stat().st_mode & 0o777 for file in paste.iterdir()} == {0o600}


async def test_ports_can_be_chosen_and_must_then_be_free(tmp_path: Path) -> None:
    first = _four_free_ports()
    async with _demo(tmp_path / "demo", "--port", str(first)) as demo:
        assert demo.ports() == [first, first + 1, first + 2, first + 3]
        async with running(
            [COMMAND, "demo", "--data", tmp_path / "other", "--port", str(first - 1)]
        ) as other:
            assert await other.wait() == 1
        assert f"port {first} is in use: choose other ports with --port" in other.output


def _four_free_ports() -> int:
    """Return the first of five ports in a row, of which the last four follow it."""
    for first in range(21_000, 30_000, 5):
        with ExitStack() as held:
            try:
                for port in range(first, first + 5):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first + 1
    pytest.fail("no five free ports in a row")
