"""What programs load when they start: what they need, and no library that only others need.

Each library costs memory in every process that loads it, and time before the gateway is ready.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.cli.output import Exit
from tests.support.process import running

TOOLS: Final = frozenset({"cramjam", "google", "grpc", "opentelemetry", "rich"})
"""What only the tools to try a gateway with need, or settings that are off."""
WORKERS_NEVER_LOAD: Final = TOOLS | {
    "aiohttp",
    "aiosqlite",
    "asyncpg",
    "cryptography",
    "jwt",
    "prometheus_client",
    "pydantic",
    "sqlite3",
    "typer",
    "yaml",
}
CONTROL_NEVER_LOADS: Final = TOOLS | {"asyncpg", "cachetools", "cryptography", "jwt", "tenacity"}
"""With a SQLite store, without TLS and without an authority."""
KEY_COMMANDS_NEVER_LOAD: Final = (CONTROL_NEVER_LOADS - {"rich"}) | {
    "aiohttp",
    "prometheus_client",
    "uvloop",
}
"""With a SQLite store. Of rich they load what tells how wide a text is."""

_TIMES: Final = ("-P", "-X", "importtime")
_COMMAND: Final = (sys.executable, *_TIMES, "-c", "from gateway.cli.entry import main; main()")


def _loaded(lines: Iterable[str]) -> frozenset[str]:
    times = [line for line in lines if line.startswith("import time:")]
    return frozenset(line.rpartition("|")[2].strip() for line in times)


def _libraries(loaded: frozenset[str]) -> frozenset[str]:
    # A library without any of its modules was asked for and not let in.
    return frozenset(name.partition(".")[0] for name in loaded if "." in name)


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    tree: dict[str, Any] = {
        "listen": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "state_dir": str(tmp_path / "state"),
        "workers": 1,
    }
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.fixture(scope="module", name="loaded_by_a_worker")
def _loaded_by_a_worker() -> frozenset[str]:
    """Start a worker as control does, but for a channel: it loads everything, then ends."""
    ended = _run(sys.executable, *_TIMES, "-m", "gateway.dataplane.worker_process")
    return _loaded(ended.stderr.splitlines())


def test_a_worker_loads_the_data_path(loaded_by_a_worker: frozenset[str]) -> None:
    assert {"gateway.dataplane.exchange.pipeline", "gateway.wire.http2"} <= loaded_by_a_worker


def test_a_worker_loads_no_library_of_controls(loaded_by_a_worker: frozenset[str]) -> None:
    assert sorted(_libraries(loaded_by_a_worker) & WORKERS_NEVER_LOAD) == []


async def test_a_gateway_that_is_ready_has_loaded_nothing_that_it_does_not_use(
    config: Path,
) -> None:
    async with running([*_COMMAND, "serve", "--config", config]) as program:
        await program.wait_line('"event": "ready"')
        loaded = _loaded(program.stderr)

    assert {"gateway.control.lifecycle.main", "gateway.keys.stores.sqlite"} <= loaded
    assert sorted(_libraries(loaded) & CONTROL_NEVER_LOADS) == []


@pytest.mark.parametrize("command", [("create", "--name", "one"), ("list",)])
def test_a_command_on_keys_loads_no_library_of_a_gateway(
    command: Sequence[str], config: Path
) -> None:
    if command[0] == "list":
        assert _run(*_COMMAND, "keys", "create", "--name", "x", "--config", config).returncode == 0

    ended = _run(*_COMMAND, "keys", *command, "--config", config)

    assert ended.returncode == Exit.OK
    loaded = _loaded(ended.stderr.splitlines())
    assert "gateway.keys.stores.sqlite" in loaded
    assert sorted(_libraries(loaded) & KEY_COMMANDS_NEVER_LOAD) == []
