"""Start programs from a test that runs in an event loop.

uvloop starts a program by running Python's handlers between fork and exec, in a process whose other
threads are gone: where one of them held a lock, the child waits for it for ever, and its parent for
the child. `subprocess` runs no Python there.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_POLL_S = 0.01


class Child:
    """A program that was started; as `asyncio.subprocess.Process`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdout: tuple[asyncio.StreamReader, asyncio.BaseTransport] | None,
        stderr: tuple[asyncio.StreamReader, asyncio.BaseTransport] | None,
    ) -> None:
        self._process = process
        self._pipes = [pipe[1] for pipe in (stdout, stderr) if pipe is not None]
        self.stdout = None if stdout is None else stdout[0]
        self.stderr = None if stderr is None else stderr[0]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        while (code := self.returncode) is None:
            await asyncio.sleep(_POLL_S)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Stop reading what it, or a child of its own, still writes."""
        for pipe in self._pipes:
            pipe.close()

    async def communicate(self, text: bytes = b"") -> tuple[bytes, bytes]:
        """Write to its standard input, read all that it writes, and wait for its end."""
        if self._process.stdin is not None:
            self._process.stdin.write(text)
            self._process.stdin.close()
        streams = (self.stdout, self.stderr)
        reads = [stream.read() for stream in streams if stream is not None]
        written = iter(await asyncio.gather(*reads))
        await self.wait()
        stdout, stderr = (b"" if stream is None else next(written) for stream in streams)
        return stdout, stderr


async def start_child(
    *command: str | Path,
    stdin: int | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
    limit: int = 1 << 16,
) -> Child:
    """Start a command; the arguments are those of `asyncio.create_subprocess_exec`."""
    process = subprocess.Popen(  # noqa: ASYNC220 - see the module
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, pass_fds=pass_fds
    )
    pipes = [await _read(pipe, limit) for pipe in (process.stdout, process.stderr)]
    return Child(process, *pipes)


class _Pipe(asyncio.StreamReaderProtocol):
    """Closes at the end of the stream, which a plain one leaves to somebody who writes, too."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


async def _read(
    pipe: IO[bytes] | None, limit: int
) -> tuple[asyncio.StreamReader, asyncio.BaseTransport] | None:
    if pipe is None:
        return None
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    transport, _ = await loop.connect_read_pipe(lambda: _Pipe(reader, loop=loop), pipe)
    return reader, transport
