"""The live view: one line for each request that arrived or was refused.

Text in, text out: rich makes colours of it where a terminal can show them.
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
from gateway.receiver import Record

REASONS: Final = {
    AuthOutcome.KEY_MISSING: "no key in the request",
    AuthOutcome.KEY_MALFORMED: "no key could be read from the request",
    AuthOutcome.KEY_CONFLICT: "two different keys in one request",
    AuthOutcome.KEY_UNKNOWN: "a key that is not known",
    AuthOutcome.KEY_EXPIRED: "an expired key",
    AuthOutcome.KEY_REVOKED: "a deleted key",
    AuthOutcome.KEY_DISABLED: "a disabled key",
    AuthOutcome.SIGNAL_NOT_ALLOWED: "the key may not send this",
    AuthOutcome.UNDECIDED: "the key could not be checked",
}
"""Why the gateway refuses, in words; by the auth outcome."""

_GOOD, _BAD, _ODD = "green", "bold red", "yellow"


class LiveView:
    """Writes the view's lines.

    Args:
        is_fancy: whether to colour them.
        key_name: gives the name of a key id.
    """

    def __init__(self, key_name: Callable[[str], str], *, is_fancy: bool) -> None:
        self._key_name = key_name
        self._is_fancy = is_fancy

    def arrived(self, record: Record) -> str:
        """Tell of a request that the gateway passed on to the receiver."""
        clock = f"{record.time.astimezone():%H:%M:%S}"
        if record.error or record.signal is None:
            return self._line(
                clock, ("odd", _ODD), f"{printable(record.path)}: {record.answer}, {record.error}"
            )
        name = ", ".join(printable(name) for name in record.services) or record.unnamed
        columns = (
            f"{record.signal:<8}  {name:<20}  {record.contents:<14}  "
            f"{record.bytes:>7} bytes  {printable(record.encoding):<8}  {record.protocol:<4}  "
        )
        key = printable(record.key_name) or "-"
        return self._line(clock, ("accepted", _GOOD), columns, (f"key {key}", "cyan"))

    def refused(self, refused: Refused, at: datetime) -> str:
        """Tell of refusals of one sender for one reason, as a worker has reported them."""
        reason = _in_words(refused.reason)
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


def _in_words(reason: str) -> str:
    return REASONS[AuthOutcome(reason)] if reason in set(REASONS) else printable(reason)
