"""Draw what `gateway demo` shows: `python -m tools.demo_picture` writes docs/pictures/demo.svg.

Runs the demo on a terminal of its own, sends with the valid key, a wrong one, a truncated one and
the wrong scheme, and draws what the terminal then shows. The demo's key is new each time, and its
text is not in the picture.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURE: Final = ROOT / "docs" / "pictures" / "demo.svg"
_COLUMNS: Final = 118
_ROWS: Final = 40
_READY: Final = b"press Ctrl-C"
_WAIT_S: Final = 60.0
_PORT: Final = 24310


def main() -> int:
    """Draw it. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="otlp-gateway-picture-") as folder:
        shown = _run_demo(Path(folder) / "demo")
    text = shown.decode().replace("\r", "").replace(folder, "/tmp")  # noqa: S108 - a shorter name in a text
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(re.sub(r"\x1b\[\?\d+[hl]", "", text.strip())))
    svg = console.export_svg(title="gateway demo --quiet", clear=False)
    # Without the fonts that rich would have a browser fetch from elsewhere.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg.replace("Fira Code", "monospace"), flags=re.DOTALL)
    PICTURE.write_text(svg, encoding="utf-8")
    sys.stdout.write(f"{PICTURE}\n")
    return 0


def _run_demo(data: Path) -> bytes:
    """Return what the demo writes to its terminal while senders send."""
    command = [sys.executable, "-m", "gateway", "demo", "--data", str(data), "--quiet"]
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    demo = subprocess.Popen(
        [*command, "--port", str(_PORT)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
    )
    os.close(terminal)
    shown = bytearray()
    thread = threading.Thread(target=_read_all, args=(reader, shown), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + _WAIT_S
        while _READY not in shown:
            if demo.poll() is not None or time.monotonic() > until:
                message = f"the demo does not start:\n{shown.decode()}"
                raise SystemExit(message)
            time.sleep(0.1)
        _send(data)
        time.sleep(3)  # refusals are shown with the next report of a worker
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(_WAIT_S)
    thread.join(_WAIT_S)
    os.close(reader)
    return bytes(shown)


def _read_all(reader: int, into: bytearray) -> None:
    while True:
        try:
            into += os.read(reader, 4096)
        except OSError:  # the demo has closed its terminal
            return


def _send(data: Path) -> None:
    key = (data / "paste" / "key.txt").read_text(encoding="utf-8").strip()
    send = [sys.executable, "-m", "gateway", "send", "--endpoint"]
    cleartext, http = f"http://127.0.0.1:{_PORT}", f"http://127.0.0.1:{_PORT + 1}"
    for arguments, given in (
        ([cleartext, "--signal", "all"], key),
        ([http, "--protocol", "http"], key),
        ([cleartext], key[:-4]),
        ([cleartext, "--scheme", "Bearer"], key),
        ([http, "--protocol", "http"], "made-up"),
    ):
        environment = os.environ | {"GATEWAY_KEY": given}
        subprocess.run([*send, *arguments], env=environment, capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
