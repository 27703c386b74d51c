"""The decoder as control sees it: a process that is asked about one sample at a time.

It reads what senders sent, so anything may become of it. Whatever that is, it costs one sample.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.samples import Counted, Sample

COMMAND: Final = (sys.executable, "-P", "-m", "gateway.decoder")
"""`-P`: modules come from the installation, never from the folder the gateway is started in."""
ANSWER_S: Final = 10.0
"""How long one sample may take. It waits for every other process of the machine."""
_PASSED_ON: Final = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH")
"""Variables that the process gets: no others, which may hold secrets."""
_LENGTH_BYTES: Final = 4
_MOST_ANSWER_BYTES: Final = 1024


class DecoderError(Exception):
    """The decoder died, or did not answer as it should. The text says what happened."""


class DecoderProcess:
    """Starts the process when it is first asked, and again after it has ended. `close` is due."""

    def __init__(self, command: Sequence[str] = COMMAND, answer_s: float = ANSWER_S) -> None:
        self._command = tuple(command)
        self._answer_s = answer_s
        self._process: asyncio.subprocess.Process | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Counted).decode

    @property
    def pid(self) -> int | None:
        """The number of the process; None: none runs."""
        return None if self._process is None else self._process.pid

    async def count(self, sample: Sample) -> Counted:
        """Ask about one sample. Raises `DecoderError`; then the process has been ended."""
        try:
            async with asyncio.timeout(self._answer_s):
                process = self._process or await self._start()
                return await self._ask(process, sample)
        except (TimeoutError, OSError, EOFError, msgspec.MsgspecError) as error:
            ended = await self._end()
            what = "did not answer in time" if isinstance(error, TimeoutError) else f"died: {ended}"
            raise DecoderError(what) from error
        except asyncio.CancelledError:
            await self._end()
            raise

    async def close(self) -> None:
        """End the process."""
        await self._end()

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is control's
        )
        return self._process

    async def _ask(self, process: asyncio.subprocess.Process, sample: Sample) -> Counted:
        to, answers = process.stdin, process.stdout
        if to is None or answers is None or to.is_closing():
            msg = "the decoder has ended"
            raise EOFError(msg)
        payload = self._encode(sample)
        to.write(len(payload).to_bytes(_LENGTH_BYTES, "big"))
        to.write(payload)
        await to.drain()
        length = int.from_bytes(await answers.readexactly(_LENGTH_BYTES), "big")
        if length > _MOST_ANSWER_BYTES:
            msg = f"an answer of {length} bytes"
            raise EOFError(msg)
        return self._decode(await answers.readexactly(length))

    async def _end(self) -> str:
        """Kill the process, if there is one; say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "it could not be started"
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
