"""What a log of libFuzzer says about a failure: without the hundreds of lines before it."""

from __future__ import annotations

import base64
import re
from pathlib import Path

_BEGINS = re.compile(r" === |ALARM: working on the last|==\d+== ?ERROR")
_INPUT_DUMP = re.compile(r"^MS: \d.*?^artifact_prefix=.*?$", re.MULTILINE | re.DOTALL)
_NOISE = re.compile(
    r"#\d+\t|INFO: |WARNING: |Base64: |"
    r"(==\d+== ERROR|SUMMARY): libFuzzer: fuzz target exited"
)
_INPUT_FILE = re.compile(r"Test unit written to (\S+)")
_COUNT = re.compile(r"^(?:#|Done )(\d+)", re.MULTILINE)
_MOST_LINES = 60
_MOST_HEX_BYTES = 256


def inputs_tried(log: str) -> str:
    """Return how many inputs a log says were tried."""
    counts = _COUNT.findall(log)
    return counts[-1] if counts else "no"


def failure(name: str, log: str) -> list[str]:
    """Return the lines that say how a target failed: traceback, input, how to repeat it."""
    lines = _INPUT_DUMP.sub("", log).splitlines()
    begin = next((at for at, line in enumerate(lines) if _BEGINS.match(line)), 0)
    told = [line for line in lines[begin:] if line.strip() and not _NOISE.match(line)]
    return [f"==> {name}", *told[-_MOST_LINES:], *_input_lines(name, log)]


def _input_lines(name: str, log: str) -> list[str]:
    files = [Path(file) for file in _INPUT_FILE.findall(log)]
    if not files or not files[-1].is_file():
        return [f"no input was kept; the log is .cache/fuzz/{name}.log"]
    data = files[-1].read_bytes()
    shown = data[:_MOST_HEX_BYTES].hex() + ("…" if len(data) > _MOST_HEX_BYTES else "")
    return [
        f"input, {len(data)} bytes: {shown}",
        f"file: {files[-1]}",
        f"repeat it: python -m tests.fuzz --target {name} --base64 "
        + base64.b64encode(data).decode(),
    ]
