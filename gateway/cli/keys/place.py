"""Where the keys are that a command means: a store, or a running gateway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from gateway.cli.keys.access import KeyAccess
from gateway.cli.keys.values import read_token
from gateway.keys.errors import InvalidInputError

TOKEN_VARIABLE: Final = "GATEWAY_TOKEN"  # noqa: S105 - a variable's name


class Place(NamedTuple):
    """Where keys are, as the options say; see their help."""

    config: Path | None = None
    data: Path | None = None
    url: str | None = None
    token: str | None = None
    token_file: str | None = None


def access(place: Place) -> KeyAccess:
    """Find the keys that the options name: a store, or a running gateway's.

    Raises `InvalidInputError` for options that do not go together.
    """
    if place.url is None:
        if place.token is not None or place.token_file is not None:
            msg = "--token and --token-file are for a running gateway: name its --url, too"
            raise InvalidInputError(msg)
        from gateway.cli.keys.stored_keys import stored_keys

        return stored_keys(place.config, place.data)
    if place.config is not None or place.data is not None:
        msg = "--url asks a running gateway: leave --config and --data out"
        raise InvalidInputError(msg)
    from gateway.cli.keys.remote_keys import RemoteKeys

    return RemoteKeys(place.url, _token(place.token, place.token_file))


def _token(token: str | None, token_file: str | None) -> str:
    if token is not None and token_file is not None:
        msg = "--token and --token-file both name a token: give only one of them"
        raise InvalidInputError(msg)
    if token_file is not None:
        token = read_token(token_file)
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        msg = (
            f"--url needs an admin token: give --token-file or set {TOKEN_VARIABLE}; the"
            " gateway's is in admin.tokens, or in the file admin-token of its state folder"
        )
        raise InvalidInputError(msg)
    if not (token.isascii() and token.isprintable()):
        msg = "the token contains characters that no token has: look for line breaks in it"
        raise InvalidInputError(msg)
    return token
