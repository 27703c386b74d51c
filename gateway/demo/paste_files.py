"""The text to paste as files, for `gateway demo --quiet`: readable by their owner alone.

They contain the API key, and so does `key.txt`, so that later starts can write them again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from gateway.demo.snippets import (
    AGENT_FILE,
    CLEARTEXT_FILE,
    REMOTE_WRITE_FILE,
    TLS_FILE,
    Snippets,
)

FOLDER: Final = "paste"
KEY_FILE: Final = "key.txt"
CURL_FILE, SEND_FILE = "curl.sh", "send.sh"
_MODE: Final = 0o600


def kept_key(folder: Path) -> str | None:
    """Return the key that an earlier start has written into the demo's directory, if one has."""
    try:
        return (folder / FOLDER / KEY_FILE).read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def write_files(snippets: Snippets, now_ns: int) -> Path:
    """Write all files and return their directory. `now_ns`: Unix time, for the span of curl."""
    folder = snippets.layout.folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    texts = {
        TLS_FILE: snippets.collector_tls,
        CLEARTEXT_FILE: snippets.collector_cleartext,
        AGENT_FILE: snippets.agent,
        REMOTE_WRITE_FILE: snippets.remote_write,
        CURL_FILE: snippets.curl(now_ns) + "\n",
        SEND_FILE: snippets.send + "\n",
    }
    if snippets.key is not None:
        texts[KEY_FILE] = snippets.key + "\n"
    for name, text in texts.items():
        _write(folder / name, text)
    return folder


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        os.fchmod(descriptor, _MODE)
        opened.write(text)
