"""The tokens of the admin API: from the configuration, or one made at the first start.

Compared by digest and in constant time; the file is readable by its owner only. A token is never in
a log, an error or a `repr`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.config import Config
from gateway.control.admin.roles import Caller, Role, caller_of
from gateway.keys.state_file import (
    StateFileError,
    make_private,
    make_state_folder,
    open_state_file,
)

TOKEN_FILE: Final = "admin-token"  # noqa: S105 - the file's name
_TOKEN_BYTES: Final = 32
_MOST_BYTES: Final = 4_096
_OWNER_ONLY: Final = 0o600


class TokenError(Exception):
    """The token file cannot be used; the text names it and says what to do."""


class AdminTokens:
    """The tokens that are accepted, as digests, each with its role and its name for the audit."""

    def __init__(self, tokens: Iterable[tuple[Caller, str]]) -> None:
        """Take whose token it is, and the token."""
        self._digests = [(caller, _digest(token)) for caller, token in tokens]

    def accept(self, presented: str) -> Caller | None:
        """Return whose token is `presented`, None for a wrong one; in constant time."""
        return self.find(_digest(presented))

    def find(self, digest: bytes) -> Caller | None:
        """Return whose token has a SHA-256 digest, None for no token; likewise."""
        found = None
        for caller, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = caller
        return found


def read_tokens(config: Config) -> AdminTokens:
    """Return the configured tokens, or the one in the state directory. Raises `TokenError`."""
    if config.admin.tokens:
        return AdminTokens(
            (caller_of(each), each.token.get_secret_value()) for each in config.admin.tokens
        )
    token, _ = ensure_token_file(config.state_dir)
    return AdminTokens([(Caller(TOKEN_FILE, Role.ADMINISTRATOR), token)])


def ensure_token_file(state_dir: Path) -> tuple[str, Path]:
    """Return the token in `state_dir` and its file, making both at the first start.

    Raises `TokenError` where the file is readable by others, is empty or cannot be made, and where
    it or the folder is another user's.
    """
    path = state_dir / TOKEN_FILE
    try:
        make_state_folder(state_dir)
        try:
            return _read(path), path
        except FileNotFoundError:
            _create(path)
            return _read(path), path
    except StateFileError as error:
        raise TokenError(str(error)) from error
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
        pass  # the other gateway was first: its token is used
    finally:
        draft.unlink()


def _read(path: Path) -> str:
    try:
        with open_state_file(path) as file:
            make_private(file, path)
            token = file.read(_MOST_BYTES).decode("ascii", "replace").strip()
    except StateFileError as error:
        msg = f"{path}: {error}"
        raise TokenError(msg) from error
    if not token:
        msg = f"{path} is empty: delete it, and the gateway makes a new token at its next start"
        raise TokenError(msg)
    if not (token.isascii() and token.isprintable()):
        msg = f"{path} holds no token: delete it, and the gateway makes one at its next start"
        raise TokenError(msg)
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
