"""Small inputs that operators and senders report in public, given to the installed gateway."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hpack
import psutil
import pytest

from gateway.wire import http2
from gateway.wire.http2 import ErrorCode, Setting, frame
from tests.support.clients import http1_request
from tests.support.exchange import JSON
from tests.support.process import KEY, Gateway, running_gateway
from tests.support.sink import RawSink

AUTH: Final = ("Authorization", f"StackState {KEY}")


def _workers(gateway: Gateway) -> set[int]:
    children = psutil.Process(gateway.program.process.pid).children()
    return {child.pid for child in children}


async def _status(gateway: Gateway) -> int:
    """Send one request with the key, and return its status."""
    fields = (AUTH, ("Content-Type", JSON), ("Content-Length", "2"))
    return (await http1_request(gateway.port, "/v1/traces", fields, b"{}")).status


async def test_a_flood_of_window_updates_is_ended_and_holds_up_nobody(tmp_path: Path) -> None:
    """Without a key: a thousand refusals that wait for a window, then 50,000 small ones."""
    one = (1).to_bytes(4, "big")
    no_window = Setting.INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4)
    head = hpack.Encoder().encode(
        [(":method", "POST"), (":scheme", "http"), (":path", "/v1/traces"), (":authority", "a")]
    )
    flags = http2.END_STREAM | http2.END_HEADERS
    requests = b"".join(
        frame(http2.HEADERS, flags, stream.to_bytes(4, "big"), head) for stream in range(1, 2001, 2)
    )
    async with running_gateway(tmp_path, {"workers": 1}) as gateway:
        workers = _workers(gateway)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(http2.PREFACE + frame(http2.SETTINGS, 0, http2.NO_STREAM, no_window))
        writer.write(requests)
        writer.write(frame(http2.WINDOW_UPDATE, 0, http2.NO_STREAM, one) * 50_000)
        said = b""
        with contextlib.suppress(ConnectionError):  # it sends while the gateway has closed
            while data := await reader.read(65_536):
                said += data
        writer.transport.abort()
        codes = [payload[4:8] for kind, payload in _frames(said) if kind == http2.GOAWAY]
        assert codes == [ErrorCode.ENHANCE_YOUR_CALM.to_bytes(4, "big")]
        assert (await http1_request(gateway.port, "/livez", (), method="GET")).status == 200
        assert _workers(gateway) == workers


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        yield data[3], data[9:end]
        data = data[end:]


@pytest.mark.parametrize("text", ["", "# being written\n", "null\n"])
async def test_a_reload_that_finds_no_settings_changes_nothing(tmp_path: Path, text: str) -> None:
    async with (
        RawSink() as sink,
        running_gateway(
            tmp_path, {"backends": {"otlp_http": {"urls": [sink.http_url]}}}
        ) as gateway,
    ):
        workers = _workers(gateway)
        assert await _status(gateway) == 200
        gateway.config_file.write_text(text)
        gateway.program.process.send_signal(signal.SIGHUP)
        await gateway.program.wait_line("reload failed, nothing was changed")
        assert await _status(gateway) == 200
        assert _workers(gateway) == workers


async def test_a_volume_whose_files_are_its_groups_at_each_mount_starts_again_and_again(
    tmp_path: Path,
) -> None:
    """What the kubelet does for `fsGroup`: the group may read and write everything."""
    state = tmp_path / "state"
    for _ in range(3):
        async with running_gateway(tmp_path, {}) as gateway:
            assert (await gateway.get("/livez"))[0] == 200
            token = state / "admin-token"
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
        for path in (state, *state.rglob("*"), *tmp_path.glob("keys.db*")):
            path.chmod(path.stat().st_mode | (0o770 if path.is_dir() else 0o660))
