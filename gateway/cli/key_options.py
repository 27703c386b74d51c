"""What the commands of `gateway keys` share: options, where the keys are, how failures are told."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli import key_views as views
from gateway.cli.key_access import KeyAccess
from gateway.cli.output import Exit, fail
from gateway.keys.errors import (
    InvalidInputError,
    KeyRefusedError,
    StoreError,
    StoreForeignError,
    StoreTooNewError,
)
from gateway.keys.material import InvalidKeyError
from gateway.model import MAX_KEY_ID, Signal

TOKEN_VARIABLE: Final = "GATEWAY_TOKEN"  # noqa: S105 - a variable's name
_MOST_TOKEN_BYTES: Final = 4_096
_MOST_ID_DIGITS: Final = len(str(MAX_KEY_ID))
_EVERYTHING: Final = "all"
_DEFAULT: Final = "default"


def parse_id(text: str) -> int:
    """Read the id of a key. Raises `typer.BadParameter`."""
    digits = text if text.isascii() and text.isdigit() and len(text) <= _MOST_ID_DIGITS else "0"
    if not 1 <= int(digits) <= MAX_KEY_ID:
        msg = "an id is a number of up to 16 digits: `gateway keys list` shows them"
        raise typer.BadParameter(msg)
    return int(digits)


class Output(enum.StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The gateway's configuration; its first store that commands can change is used. Else"
        " $GATEWAY_CONFIG.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Use DIR/keys.db, as `gateway demo --data DIR` does."
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Ask a running gateway's admin address, such as http://127.0.0.1:8090, instead.",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="The admin token, with --url. Others can read it: better --token-file or"
        f" ${TOKEN_VARIABLE}.",
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option(
        "--token-file", metavar="FILE", help="Where the admin token is (- is standard input)."
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Text, or JSON for scripts.")]
IdOption = Annotated[
    int,
    typer.Option("--id", "-i", metavar="ID", parser=parse_id, help="The key's id, see `list`."),
]
NameOption = Annotated[
    str,
    typer.Option("--name", "-n", metavar="NAME", help="What the key is for; shown everywhere."),
]
DescriptionOption = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="More about it.")
]
ExpirationOption = Annotated[
    str | None,
    typer.Option(
        "--expiration",
        metavar="yyyy-MM-dd",
        help="The key stops working at 00:00 UTC of this day. Without: never.",
    ),
]
SignalsOption = Annotated[
    str | None,
    typer.Option(
        "--signals",
        metavar="LIST",
        help="What the key may send, such as traces,metrics; all = everything, later ones too.",
    ),
]
RequestsLimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit-requests",
        metavar="N",
        help="Requests per second on each host, such as 100; 0 = no limit, default = as configured"
        " in limits.per_key.",
    ),
]
BytesLimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit-bytes",
        metavar="N",
        help="Bytes of bodies per second, such as 5MiB; else as above.",
    ),
]
ConcurrentLimitOption = Annotated[
    str | None,
    typer.Option("--limit-concurrent", metavar="N", help="Requests at once; else as above."),
]


def examples(*lines: str) -> str:
    """Write examples below a command's help, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(lines)


def access(
    config: Path | None,
    data: Path | None,
    url: str | None,
    token: str | None,
    token_file: str | None,
) -> KeyAccess:
    """Find the keys that the options name: a store, or a running gateway's.

    Raises `InvalidInputError` for options that do not go together.
    """
    if url is None:
        if token is not None or token_file is not None:
            msg = "--token and --token-file are for a running gateway: name its --url, too"
            raise InvalidInputError(msg)
        from gateway.cli.key_store import StoredKeys, store_of

        return StoredKeys(store_of(config, data))
    if config is not None or data is not None:
        msg = "--url asks a running gateway: leave --config and --data out"
        raise InvalidInputError(msg)
    from gateway.cli.key_api import RemoteKeys

    return RemoteKeys(url, _token(token, token_file))


def _token(token: str | None, token_file: str | None) -> str:
    if token is not None and token_file is not None:
        msg = "--token and --token-file both name a token: give only one of them"
        raise InvalidInputError(msg)
    if token_file is not None:
        token = _read_token(token_file)
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


def _read_token(source: str) -> str:
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_MOST_TOKEN_BYTES)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(_MOST_TOKEN_BYTES)
    except OSError as failure:
        # The path is not repeated: it might be the token itself, typed in the wrong place.
        msg = f"the file with the token cannot be read: {failure.strerror}"
        raise InvalidInputError(msg) from failure
    return raw.decode("latin-1").strip()


def parse_signals(text: str | None) -> frozenset[Signal] | None:
    """Read a list of signals; None where there is none. Raises `InvalidInputError`."""
    if text is None:
        return None
    if text.strip().lower() == _EVERYTHING:
        return frozenset(Signal)
    names = [name.strip().lower() for name in text.split(",")]
    try:
        return frozenset(Signal(name) for name in names)
    except ValueError as failure:
        known = ", ".join(Signal)
        msg = f"--signals: there are {known}; separate several by commas, or write all"
        raise InvalidInputError(msg) from failure


def parse_limits(
    requests: str | None, size: str | None, concurrent: str | None
) -> dict[str, int | None]:
    """Read those limits that are given; None = the default. Raises `InvalidInputError`."""
    from gateway.config.units import parse_byte_rate

    given = {"requests": requests, "bytes": size, "concurrent": concurrent}
    limits: dict[str, int | None] = {}
    for name, text in given.items():
        if text is None:
            continue
        try:
            if text.strip().lower() == _DEFAULT:
                limits[name] = None
            elif name == "bytes":
                limits[name] = round(parse_byte_rate(text))
            else:
                limits[name] = int(text)
        except ValueError as failure:
            size_too = " or a size such as 5MiB" if name == "bytes" else ""
            msg = f"--limit-{name}: write a whole number{size_too}, 0 for no limit, or default"
            raise InvalidInputError(msg) from failure
    return limits


def duration_ms(option: str, text: str) -> int:
    """Read a duration as milliseconds. Raises `InvalidInputError` that names `option`."""
    from gateway.config.units import parse_duration

    try:
        return round(parse_duration(text) * 1000)
    except ValueError as failure:
        msg = f"{option}: {failure}"
        raise InvalidInputError(msg) from failure


@contextlib.contextmanager
def explained(output: Output) -> Iterator[None]:
    """Turn errors into a text on stderr and the exit code that belongs to them."""
    try:
        yield
    except (InvalidInputError, InvalidKeyError, StoreForeignError, StoreTooNewError) as failure:
        _fail(output, failure, Exit.BAD_INPUT)
    except KeyRefusedError as failure:
        _fail(output, failure, Exit.REFUSED)
    except StoreError as failure:
        _fail(output, failure, Exit.UNREACHABLE)


def _fail(output: Output, failure: Exception, code: Exit) -> None:
    if output is Output.TEXT:
        fail(str(failure), code)
    views.print_json({"error": True, "error-message": str(failure)}, sys.stderr)
    raise typer.Exit(code)
