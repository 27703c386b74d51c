"""What a key's name, description, expiry, signals and limits may be.

Each check raises `InvalidInputError` (`InvalidExpiryError` for the expiry) with a text that says
what to do and never contains a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.keys.api_key import looks_issued
from gateway.keys.errors import InvalidExpiryError, InvalidInputError
from gateway.keys.times import LATEST_MS, describe_day
from gateway.model import KeyDigest, KeyLimits, Signal, digest_of

MAX_NAME_LENGTH: Final = 255
MAX_DESCRIPTION_LENGTH: Final = 1_000
MAX_LIMIT: Final = 10**15
"""Far more than any key sends, and exact in JSON numbers."""


def check_expiry(expires_at_ms: int | None, now_ms: int) -> None:
    """Refuse an expiry that is not in the future, or too far in it. Raises `InvalidExpiryError`."""
    if expires_at_ms is None:
        return
    if expires_at_ms > LATEST_MS:
        latest = describe_day(LATEST_MS)
        msg = f"the expiration is after {latest}: leave it out, and the key never expires"
        raise InvalidExpiryError(msg)
    if expires_at_ms <= now_ms:
        # A number that is no time of ours: Python cannot write every day before 1970.
        day = describe_day(expires_at_ms) if expires_at_ms >= 0 else "before 1970"
        today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
        msg = (
            f"the expiration {day} is not in the future: a key expires at 00:00 UTC of the day"
            f" given, so the first possible day is {today + timedelta(days=1)}"
        )
        raise InvalidExpiryError(msg)


def check_name(name: str | None) -> None:
    """Refuse a name that cannot be shown everywhere; None = it stays."""
    if name is None:
        return
    _check_text("name", name, MAX_NAME_LENGTH)
    if not name.strip():
        msg = "the name is empty: say what the key is for, as in agent-eu"
        raise InvalidInputError(msg)


def check_description(description: str | None) -> None:
    """Refuse a description that cannot be shown everywhere."""
    if description:
        _check_text("description", description, MAX_DESCRIPTION_LENGTH)


def check_not_the_key(digest: KeyDigest, *texts: str | None) -> None:
    """Refuse texts that are the key itself."""
    if any(text and digest_of(text.encode("utf-8", "replace")) == digest for text in texts):
        msg = "the name or another text is the key itself: they are shown everywhere, keys are not"
        raise InvalidInputError(msg)


def normal_signals(signals: frozenset[Signal] | None) -> frozenset[Signal] | None:
    """Turn all signals into None: those of later versions are meant as well. Refuse none."""
    if signals is not None and not signals:
        msg = "no signal is named: name what the key may send, or disable it to stop everything"
        raise InvalidInputError(msg)
    return None if signals == frozenset(Signal) else signals


def check_limits(limits: Mapping[str, int | None]) -> None:
    """Refuse limits that there are not, by name; None = the default one."""
    for name, value in limits.items():
        if name not in KeyLimits._fields or (value is not None and not 0 <= value <= MAX_LIMIT):
            msg = (
                f"the limit {name} cannot be: there are {', '.join(KeyLimits._fields)}, whole"
                f" numbers from 0 (no limit) to {MAX_LIMIT}"
            )
            raise InvalidInputError(msg)


def _check_text(what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        msg = f"the {what} is {len(text)} characters long: at most {longest} are possible"
        raise InvalidInputError(msg)
    if not text.isprintable():
        msg = f"the {what} contains line breaks or control characters: use printable ones only"
        raise InvalidInputError(msg)
    if looks_issued(text.encode()):
        msg = f"the {what} is a key: names and descriptions are shown everywhere, keys are not"
        raise InvalidInputError(msg)
