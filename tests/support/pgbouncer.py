"""Debian's PgBouncer before a test's PostgreSQL. It refuses to run as root: then as `nobody`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import pytest

from tests.support.postgresql import PostgresqlServer
from tests.support.process import free_ports
from tools import debian

START_S: Final = 60.0
PoolMode = Literal["session", "transaction"]


class PgBouncer:
    """A running PgBouncer."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, url: str) -> str:
        """Return a database's url through it."""
        address, _, database = url.rpartition("/")
        host, _, _ = address.rpartition(":")
        return f"{host}:{self.port}/{database}"


@contextlib.contextmanager
def pgbouncer(
    server: PostgresqlServer, mode: PoolMode, size: int, port: int | None = None
) -> Iterator[PgBouncer]:
    """Run one, with `size` connections to `server` for each database, for the length of a block.

    `port` None: on a free one.
    """
    program = debian.find("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is missing: run `python3 tools/debian.py pgbouncer`")
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    port = free_ports(1)[0] if port is None else port
    log = folder / "log"
    try:
        folder.chmod(0o755)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={server.port} user=postgres\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n"
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, settings],
                stdout=output,
                stderr=output,
                env={**os.environ, **debian.environment(program)},
                user="nobody" if os.geteuid() == 0 else None,
            )
        try:
            _wait_for(port, process, log)
            yield PgBouncer(port)
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.02)
