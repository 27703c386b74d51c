"""The tokens that open the admin API: from the configuration, or one made at the first start.

Compared by digest and in constant time; the file is readable by its owner only. A token never
stands in a log, an error or a `repr`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TOKEN_FILE: Final = "admin-token"  # noqa: S105 - the file's name
_TOKEN_BYTES: Final = 32
_MOST_BYTES: Final = 4_096
_OWNER_ONLY: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class TokenError(Exception):
    """The token file cannot be used; the text names it and says what to do."""


class Tokens:
    """The tokens that are accepted, as digests, each with the name that the audit log gives it."""

    def __init__(self, tokens: Iterable[tuple[str, str]]) -> None:
        """Take (name, token) pairs."""
        self._digests = [(name, _digest(token)) for name, token in tokens]

    def accept(self, presented: str) -> str | None:
        """Give the name of the token that `presented` is; takes the same time whichever it is."""
        digest = _digest(presented)
        found = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def ensure_token_file(state_dir: Path) -> tuple[str, Path]:
    """Return the token in `state_dir` and its file, making both at the first start.

    Raises `TokenError` where the file is readable by others, empty or cannot be made.
    """
    path = state_dir / TOKEN_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _read(path), path
        except FileNotFoundError:
            _create(path)
            return _read(path), path
    except OSError as error:
        msg = (
            f"cannot keep the admin token in {path} ({error.strerror}): make the folder writable, "
            "set state_dir to another one, or set admin.tokens"
        )
        raise TokenError(msg) from error


def _create(path: Path) -> None:
    """Make the file whole or not at all; two gateways that start at once end with one token."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
        file.flush()
        os.fsync(fd)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # the other gateway was first: its token holds
    finally:
        draft.unlink()


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            msg = f"{path} can be read by others: 'chmod 600 {path}', or delete it for a new token"
            raise TokenError(msg)
        token = file.read(_MOST_BYTES).strip()
    if not token:
        msg = f"{path} is empty: delete it, and the gateway makes a new token at its next start"
        raise TokenError(msg)
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
