"""One run of the demo from start to end.

The gateway's control runs in this process's event loop as in `gateway serve`, with its own workers;
the receiver is its backend, in the same loop.
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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from gateway import log
from gateway.config import ConfigError, load
from gateway.control.admin.tokens import TokenError
from gateway.control.core.errors import StartError
from gateway.control.core.sockets import BindError
from gateway.control.lifecycle.control import Control, open_gateway
from gateway.demo.banner import GOODBYE, banner, short_banner
from gateway.demo.certificates import ensure_certificates
from gateway.demo.layout import DemoLayout, PortInUseError, Ports, configuration
from gateway.demo.live import Live
from gateway.demo.paste_files import kept_key, write_files
from gateway.demo.screen import Screen
from gateway.demo.snippets import Snippets
from gateway.keys.errors import StoreError
from gateway.keys.state_file import StateFileError, make_state_folder
from gateway.keys.store import KeySpec
from gateway.receiver import ListenError, Receiver
from gateway.terminal import is_fancy

KEY_NAME: Final = "demo"
"""Name of the key that the first start creates."""
_UNUSABLE: Final = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS, errno.ENOSPC}
"""Errors of the directory, as opposed to bugs in the demo."""
_INTERRUPTED: Final = 130
"""The exit status that shells report for a program killed by Ctrl-C."""


class DemoError(Exception):
    """The demo cannot run. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user has chosen."""

    folder: Path
    """Directory for keys, certificates and the configuration; created if missing."""
    command: str
    """How to call this program, for the text to paste."""
    first_port: int | None = None
    """First of four ports in a row; None = the usual ones, or free ones if those are in use."""
    is_quiet: bool = False
    """Write the text to paste into files instead of the screen."""


def run(choices: Choices) -> int:
    """Run the demo until a signal arrives; return the exit status.

    Raises `DemoError`: the demo cannot start.
    """
    choices = replace(choices, folder=choices.folder.absolute())
    log_format = log.configure("error", "auto")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(choices, log_format))


async def _run(choices: Choices, log_format: log.LogFormat) -> int:
    """Run until the first signal, then stop in order; a second one stops immediately."""
    stopping = asyncio.Event()
    living = asyncio.create_task(_live(choices, log_format, stopping), name="demo")

    def stop() -> None:
        if stopping.is_set():
            living.cancel()
        stopping.set()

    loop = asyncio.get_running_loop()
    # SIGHUP too: after the terminal is closed nobody can see the demo.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await living
    except asyncio.CancelledError:
        return _INTERRUPTED
    return 0


async def _live(choices: Choices, log_format: log.LogFormat, stopping: asyncio.Event) -> None:
    folder = choices.folder
    with _demo_errors(folder), _locked(folder):
        screen = Screen(sys.stdout.fileno(), on_broken=stopping.set)
        live = Live(screen, is_fancy=is_fancy(sys.stdout))
        try:
            async with Receiver(live.arrived, grpc=None) as receiver:
                layout = _prepare(choices, receiver)
                loaded = load(layout.config_file, (), os.environ)
                async with open_gateway(
                    loaded, on_refusal=live.refused, log_format=log_format
                ) as control:
                    key = await _first_key(control)
                    await screen.show(_text(choices, layout, key))
                    live.begin(control.key_name)
                    await stopping.wait()
                    screen.offer(GOODBYE)
        finally:
            await screen.close()


def _text(choices: Choices, layout: DemoLayout, key: str | None) -> str:
    """Return what stands above the live view; write the files that it names."""
    fancy, now_ns = is_fancy(sys.stdout), time.time_ns()
    if not choices.is_quiet:
        return banner(Snippets(layout, key, choices.command), now_ns, fancy)
    snippets = Snippets(layout, key or kept_key(layout.folder), choices.command)
    return short_banner(snippets, write_files(snippets, now_ns), fancy)


def _prepare(choices: Choices, receiver: Receiver) -> DemoLayout:
    """Create certificates, choose ports and write the gateway's configuration."""
    first = choices.first_port
    ports = Ports.choose() if first is None else Ports.starting_at(first)
    certificates = ensure_certificates(choices.folder, datetime.now(UTC))
    layout = DemoLayout(choices.folder, ports, certificates)
    text = configuration(layout, receiver.http_address)
    layout.config_file.write_text(text, encoding="utf-8")
    return layout


async def _first_key(control: Control) -> str | None:
    """Create a key if there is none; return it, to be shown once."""
    commands = control.keys.commands
    if await commands.live(limit=1):
        return None
    issued = await commands.create(KeySpec(KEY_NAME, "made by gateway demo"))
    await control.confirmed(control.keys.revision)
    return issued.key.reveal()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the directory for this run: two gateways would write the same configuration."""
    try:
        make_state_folder(folder)
    except StateFileError as error:
        raise DemoError(str(error)) from error
    descriptor = os.open(folder / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another demo uses {folder}: stop it, or choose another directory with --data"
            raise DemoError(msg) from error
        yield


@contextlib.contextmanager
def _demo_errors(folder: Path) -> Iterator[None]:
    """Translate expected errors to `DemoError`."""
    try:
        yield
    except ConfigError as error:
        raise DemoError("; ".join(map(str, error.problems))) from error
    except (BindError, ListenError, StartError, StoreError, TokenError) as error:
        raise DemoError(str(error)) from error
    except PortInUseError as error:
        msg = f"port {error} is in use: choose other ports with --port, or leave it out"
        raise DemoError(msg) from error
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"{folder} is not a directory: choose another one with --data"
        raise DemoError(msg) from error
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        msg = f"{folder} cannot be used: {error.strerror}. Choose another directory with --data"
        raise DemoError(msg) from error
