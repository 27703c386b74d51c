"""The demo's start-up text: addresses, the API key, and the text to paste."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.demo.paste_files import SEND_FILE
from gateway.demo.ports import HOST
from gateway.demo.snippets import (
    AGENT_FILE,
    CLEARTEXT_FILE,
    KEY_VARIABLE,
    REMOTE_WRITE_FILE,
    TLS_FILE,
    Snippets,
    marked,
)

GOODBYE: Final = "Stopping."
_LIVE: Final = "Requests that arrive or are refused (press Ctrl-C to stop):"
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"


def banner(snippets: Snippets, now_ns: int, is_fancy: bool) -> str:  # noqa: FBT001 - of its one caller
    """Format everything above the live view.

    Args:
        snippets: the text to paste.
        now_ns: Unix time in nanoseconds, for the span in the curl command.
        is_fancy: whether the terminal supports bold text.
    """
    parts = (
        _addresses(snippets),
        _key(snippets, is_fancy),
        _headed("A Collector that sends over TLS, as in StackState's documentation:", is_fancy),
        marked(TLS_FILE, snippets.collector_tls),
        "",
        _headed("A Collector that sends in cleartext:", is_fancy),
        marked(CLEARTEXT_FILE, snippets.collector_cleartext),
        "",
        "Save one of these two and run: otelcol-contrib --config FILE",
        "",
        _headed("A StackState agent's environment:", is_fancy),
        marked(AGENT_FILE, snippets.agent),
        "",
        _headed("Prometheus:", is_fancy),
        marked(REMOTE_WRITE_FILE, snippets.remote_write),
        "",
        _headed("One span with curl:", is_fancy),
        snippets.curl(now_ns),
        "",
        _headed("Traces, metrics, logs and a profile over TLS:", is_fancy),
        snippets.send,
        "",
        _headed(_LIVE, is_fancy),
    )
    return "\n".join(parts)


def short_banner(snippets: Snippets, paste: Path, is_fancy: bool) -> str:  # noqa: FBT001 - of its one caller
    """Format what stands above the live view when the text to paste is in files under `paste`."""
    if snippets.key is not None:
        key = f"The text to paste, with the API key, is in {paste}/"
    else:
        key = f"The text to paste is in {paste}/; set {KEY_VARIABLE} to the API key for it"
    parts = (
        _addresses(snippets),
        f"{key}\nTry: sh {shlex.quote(str(paste / SEND_FILE))}\n",
        _headed(_LIVE, is_fancy),
    )
    return "\n".join(parts)


def _headed(text: str, is_fancy: bool) -> str:  # noqa: FBT001 - of its one caller
    return f"{_BOLD}{text}{_RESET}" if is_fancy else text


def _addresses(snippets: Snippets) -> str:
    layout, ports = snippets.layout, snippets.layout.ports
    rows = (
        (
            "OTLP in cleartext",
            f"{HOST}:{ports.grpc} and {HOST}:{ports.http}, gRPC and HTTP on both",
        ),
        ("OTLP over TLS", f"{HOST}:{ports.tls}, CA certificate {layout.certificates.ca_file}"),
        ("Admin", f"{layout.admin_url}/metrics, {layout.admin_url}/readyz"),
        ("Keys and settings", str(layout.folder)),
    )
    lines = [f"  {name:<18} {value}" for name, value in rows]
    return "\n".join((f"otlp-gateway {__version__} demo", "", *lines, ""))


def _key(snippets: Snippets, is_fancy: bool) -> str:  # noqa: FBT001 - of its one caller
    if snippets.key is not None:
        mark = "✅" if is_fancy else "[SUCCESS]"
        return (
            f"{mark} Ingestion API Key generated: {snippets.key}\n\n"
            f"The key is shown only once. The text below contains it; later starts use\n"
            f"${KEY_VARIABLE} instead. To create another key: {snippets.new_key}\n"
        )
    return (
        f"The API key was shown at the first start and cannot be shown again. Set it first:\n"
        f"export {KEY_VARIABLE}=…\n"
        f"To create another key: {snippets.new_key}\n"
    )
