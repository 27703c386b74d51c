"""One run of the demo from start to end: the order of things.

The gateway's control runs in this process's event loop as `gateway serve` has it, with workers of
its own; the receiver is its backend, in the same loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from gateway import log
from gateway.config import ConfigError, load
from gateway.control.admin_token import TokenError
from gateway.control.main import Control, running
from gateway.control.slot import StartError
from gateway.control.sockets import BindError
from gateway.demo.banner import GOODBYE, banner
from gateway.demo.certificates import ensure_certificates
from gateway.demo.live import Live
from gateway.demo.screen import Screen
from gateway.demo.setting import Ports, Setting, configuration
from gateway.demo.snippets import Snippets
from gateway.keys.errors import StoreError
from gateway.receiver import ListenError, Receiver
from gateway.terminal import is_fancy

KEY_NAME: Final = "demo"
"""Name of the key that the first start makes."""
_UNUSABLE: Final = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS, errno.ENOSPC}
"""What is wrong with a folder, as opposed to a bug of ours."""
_INTERRUPTED: Final = 130
"""How shells report a program that Ctrl-C ended at once."""


class DemoError(Exception):
    """The demo cannot run. The text says why and what to do."""


def run(folder: Path, command: str) -> int:
    """Run the demo until a signal comes; return the exit status.

    Args:
        folder: where keys, certificates and the configuration are kept; made if missing.
        command: how this program is called, for the text to paste.

    Raises:
        DemoError: it cannot start.
    """
    log_format = log.configure("error", "auto")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(folder.absolute(), command, log_format))


async def _run(folder: Path, command: str, log_format: log.LogFormat) -> int:
    """Live until the first signal, then end in order; the second one ends at once."""
    stopping = asyncio.Event()
    living = asyncio.create_task(_live(folder, command, log_format, stopping), name="demo")

    def stop() -> None:
        if stopping.is_set():
            living.cancel()
        stopping.set()

    loop = asyncio.get_running_loop()
    # SIGHUP too: when its terminal is closed nobody sees the demo any more.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await living
    except asyncio.CancelledError:
        return _INTERRUPTED
    return 0


async def _live(
    folder: Path, command: str, log_format: log.LogFormat, stopping: asyncio.Event
) -> None:
    with _errors_in_words(folder), _locked(folder):
        screen = Screen(sys.stdout.fileno(), on_broken=stopping.set)
        live = Live(screen, is_fancy=is_fancy(sys.stdout))
        try:
            async with Receiver(live.arrived, grpc=None) as receiver:
                setting = _prepare(folder, receiver)
                loaded = load(setting.config_file, (), os.environ)
                async with running(
                    loaded, on_refusal=live.refused, log_format=log_format
                ) as control:
                    key = await _first_key(control)
                    snippets = Snippets(setting, key, command)
                    await screen.show(banner(snippets, time.time_ns(), is_fancy(sys.stdout)))
                    live.begin(control.key_name)
                    await stopping.wait()
                    screen.offer(GOODBYE)
        finally:
            await screen.close()


def _prepare(folder: Path, receiver: Receiver) -> Setting:
    """Make what the gateway needs: certificates, ports, its configuration."""
    certificates = ensure_certificates(folder, datetime.now(UTC))
    setting = Setting(folder, Ports.choose(), certificates)
    text = configuration(setting, receiver.http_address)
    setting.config_file.write_text(text, encoding="utf-8")
    return setting


async def _first_key(control: Control) -> str | None:
    """Make a key when there is none; return it, to be shown this once."""
    if await control.keys.live_keys():
        return None
    issued = await control.keys.create(KEY_NAME, "made by gateway demo")
    await control.confirmed(control.keys.revision)
    return issued.key.reveal()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the folder for this run: two gateways would write one configuration."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another demo runs on {folder}: end it, or choose another folder with --data"
            raise DemoError(msg) from error
        yield


@contextlib.contextmanager
def _errors_in_words(folder: Path) -> Iterator[None]:
    """Translate what keeps the demo from running."""
    try:
        yield
    except ConfigError as error:
        raise DemoError("; ".join(str(fault) for fault in error.faults)) from error
    except (BindError, ListenError, StartError, StoreError, TokenError) as error:
        raise DemoError(str(error)) from error
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"{folder} is no folder: choose another one with --data"
        raise DemoError(msg) from error
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        msg = f"{folder} cannot be used: {error.strerror}. Choose another folder with --data"
        raise DemoError(msg) from error
