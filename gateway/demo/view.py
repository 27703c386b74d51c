"""The live view: one line for each request that arrived or was refused.

It only formats text; rich adds colours if the terminal supports them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from gateway.channel import Refused
from gateway.otlp.text import printable
from gateway.outcome import AuthOutcome
from gateway.receiver import ReceivedRequest

REASONS: Final = {
    AuthOutcome.KEY_MISSING: "no API key in the request",
    AuthOutcome.KEY_MALFORMED: "the API key is unreadable",
    AuthOutcome.KEY_CONFLICT: "two different API keys in one request",
    AuthOutcome.KEY_UNKNOWN: "the API key is unknown",
    AuthOutcome.KEY_EXPIRED: "the API key has expired",
    AuthOutcome.KEY_REVOKED: "the API key was deleted",
    AuthOutcome.KEY_DISABLED: "the API key is disabled",
    AuthOutcome.TOKEN_MALFORMED: "the token is unreadable",
    AuthOutcome.TOKEN_INVALID: "the token is not valid here",
    AuthOutcome.CERTIFICATE_MISSING: "no client certificate",
    AuthOutcome.CERTIFICATE_INVALID: "the client certificate names no known sender",
    AuthOutcome.CERTIFICATE_EXPIRED: "the client certificate has expired",
    AuthOutcome.CERTIFICATE_REVOKED: "the client certificate was revoked",
    AuthOutcome.SIGNAL_NOT_ALLOWED: "the API key may not send this signal",
    AuthOutcome.UNDECIDED: "the API key could not be checked",
}
"""Why the gateway refuses, by the auth outcome."""

_GOOD, _BAD, _ODD = "green", "bold red", "yellow"


class LiveView:
    """Formats the lines of the view.

    Args:
        is_fancy: whether to colour them.
        key_name: returns the name for a key id.
    """

    def __init__(self, key_name: Callable[[str], str], *, is_fancy: bool) -> None:
        self._key_name = key_name
        self._is_fancy = is_fancy

    def arrived(self, received: ReceivedRequest) -> str:
        """Format a request that the gateway forwarded to the receiver."""
        clock = f"{received.time.astimezone():%H:%M:%S}"
        if received.error or received.signal is None:
            return self._line(
                clock,
                ("odd", _ODD),
                f"{printable(received.path)}: {received.answer}, {received.shown_error}",
            )
        name = ", ".join(printable(name) for name in received.services) or received.unnamed
        columns = (
            f"{received.signal:<8}  {name:<20}  {received.contents:<14}  "
            f"{received.bytes:>7} bytes  {printable(received.encoding):<8}  "
            f"{received.protocol:<4}  "
        )
        key = printable(received.key_name) or "-"
        return self._line(clock, ("accepted", _GOOD), columns, (f"key {key}", "cyan"))

    def refused(self, refused: Refused, at: datetime) -> str:
        """Format the refusals of one sender for one reason, as a worker has reported them."""
        reason = _reason_text(refused.reason)
        times = f" ({refused.count} times)" if refused.count > 1 else ""
        facts = [f"from {refused.peer}", f"by {refused.protocol}"]
        if refused.scheme:
            facts.append(f"scheme {printable(refused.scheme)}")
        if refused.key_id:
            name = printable(self._key_name(refused.key_id))
            facts.append(f"key {name} ({refused.key_id})" if name else f"key {refused.key_id}")
        elif refused.digest_prefix:
            facts.append(f"key with sha256 {refused.digest_prefix}…")
        return self._line(
            f"{at.astimezone():%H:%M:%S}",
            ("refused", _BAD),
            f"{refused.signal:<8}  ",
            (f"{reason}{times}", _BAD),
            f"  {', '.join(facts)}",
        )

    def _line(self, clock: str, status: tuple[str, str], *rest: str | tuple[str, str]) -> str:
        word, style = status
        text = Text.assemble((f"{clock}  ", "dim"), (f"{word:<8}  ", style), *rest)
        return self._rendered(text) if self._is_fancy else text.plain

    def _rendered(self, text: Text) -> str:
        """Turn styles into the terminal's codes; the line is never wrapped or cut."""
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, color_system="standard")
        console.print(text, end="", soft_wrap=True)
        return stream.getvalue()


def _reason_text(reason: str) -> str:
    return REASONS[AuthOutcome(reason)] if reason in set(REASONS) else printable(reason)
