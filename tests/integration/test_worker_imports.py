"""What a worker loads when it starts: the data path, and no library that only control needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

WORKERS_NEVER_LOAD: Final = frozenset(
    {
        "aiohttp",
        "aiosqlite",
        "asyncpg",
        "cryptography",
        "google",
        "grpc",
        "hypercorn",
        "jwt",
        "opentelemetry",
        "prometheus_client",
        "pydantic",
        "rich",
        "sqlalchemy",
        "sqlite3",
        "typer",
        "yaml",
    }
)
"""What would cost each worker memory that its keys and buffers need."""


@pytest.fixture(scope="module", name="loaded_by_a_worker")
def _loaded_by_a_worker() -> frozenset[str]:
    """Start a worker as control does, but for a channel: it loads everything, then ends."""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "gateway.dataplane.worker_process"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    times = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return frozenset(line.rpartition("|")[2].strip() for line in times)


def test_a_worker_loads_the_data_path(loaded_by_a_worker: frozenset[str]) -> None:
    assert {"gateway.dataplane.exchange.pipeline", "gateway.wire.http2"} <= loaded_by_a_worker


def test_a_worker_loads_no_library_of_controls(loaded_by_a_worker: frozenset[str]) -> None:
    # A library without any of its modules was asked for and not let in.
    loaded = {name.partition(".")[0] for name in loaded_by_a_worker if "." in name}
    assert sorted(loaded & WORKERS_NEVER_LOAD) == []


def test_control_loads_no_library_for_tokens_unless_an_issuer_is_configured() -> None:
    code = "import sys, gateway.control.lifecycle.control; print('jwt' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
