"""`gateway keys`: create, list, change, delete, rotate, hash keys, in the words of the `sts` CLI.

Works on the store, whether a gateway runs on it or not (a running one takes changes over by itself,
and commands that change keys wait until it has), or by the API of a running gateway. The rules are
in `keys.manage`.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli import key_changes
from gateway.cli import key_views as views
from gateway.cli.key_options import (
    BytesLimitOption,
    ConcurrentLimitOption,
    ConfigOption,
    DataOption,
    DescriptionOption,
    ExpirationOption,
    IdOption,
    NameOption,
    Output,
    OutputOption,
    RequestsLimitOption,
    SignalsOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    access,
    duration_ms,
    examples,
    explained,
    parse_limits,
    parse_signals,
)
from gateway.cli.output import info, success
from gateway.keys.errors import InvalidInputError
from gateway.keys.manage import parse_expiration
from gateway.keys.material import KeyMaterial, new_key_id
from gateway.keys.record import describe_day
from gateway.keys.store import NewKey
from gateway.model import KeyDigest, KeyLimits

_MOST_KEY_FILE_BYTES: Final = 4_096
_NO_DIGEST: Final = KeyDigest(b"")

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a key
    help="Create, list, change, delete and rotate the keys that senders use.",
)


@app.command(
    epilog=examples(
        "gateway keys create --name agent-eu --expiration 2030-12-31",
        "gateway keys create --name agent-eu --limit-requests 100 --output json",
        "gateway keys create --name old-receiver-key --key-file - < key.txt",
    )
)
def create(
    *,
    name: NameOption,
    description: DescriptionOption = None,
    expiration: ExpirationOption = None,
    signals: SignalsOption = None,
    limit_requests: RequestsLimitOption = None,
    limit_bytes: BytesLimitOption = None,
    limit_concurrent: ConcurrentLimitOption = None,
    key_file: Annotated[
        str | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            help="Adopt the existing key in FILE (- is standard input) instead of making one.",
        ),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a key. It is shown once: only its SHA-256 is kept.

    With --key-file an existing key is adopted instead: 1 to 512 visible ASCII characters.
    """
    with explained(output):
        expires_at_ms = None if expiration is None else parse_expiration(expiration)
        adopted = None if key_file is None else _read_key(key_file)

        limits = KeyLimits(**parse_limits(limit_requests, limit_bytes, limit_concurrent))
        own = None if limits == KeyLimits() else limits
        may_send = parse_signals(signals)
        new = NewKey(_NO_DIGEST, name, description, expires_at_ms, may_send, limits=own)
        keys = access(config, data, url, token, token_file)
        created = keys.create(new, adopted)
    if output is Output.JSON:
        views.print_json({"ingestion-api-key": created})
    elif adopted is not None:
        success(f"Ingestion API Key adopted: {created['id']}")
    else:
        _say_generated(created["apiKey"])


@app.command(
    name="list",
    epilog=examples(
        "gateway keys list",
        "gateway keys list --config /etc/gateway/gateway.yaml --output json",
    ),
)
def list_keys(
    *,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List all keys that are not deleted, by name; never the keys themselves.

    Times are UTC. LAST USED is up to 5 seconds late while a gateway runs.
    """
    with explained(output):
        keys = access(config, data, url, token, token_file).list_keys()
    if output is Output.JSON:
        views.print_json({"ingestion-api-keys": keys})
    elif not keys:
        info("No ingestion api keys found.")
    else:
        views.print_table(keys)


@app.command(epilog=examples("gateway keys delete --id 250558013078953"))
def delete(
    *,
    key_id: IdOption,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a key: senders that use it are refused from now on."""
    with explained(output):
        access(config, data, url, token, token_file).delete(key_id)
    if output is Output.JSON:
        views.print_json({"deleted-ingestion-api-key": key_id})
    else:
        success(f"Ingestion Api Key deleted: {key_id}")


@app.command(epilog=examples("gateway keys rotate --id 250558013078953 --overlap 24h"))
def rotate(
    *,
    key_id: IdOption,
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap", metavar="DURATION", help="How long the old key goes on working: 24h, 7d."
        ),
    ],
    expiration: Annotated[
        str | None,
        typer.Option(
            "--expiration",
            metavar="yyyy-MM-dd",
            help="When the new key expires. Without: it lives as long as the old one was to.",
        ),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a successor of a key, with the same name; the old key expires after the overlap."""
    with explained(output):
        overlap_ms = duration_ms("--overlap", overlap)
        expires_at_ms = None if expiration is None else parse_expiration(expiration)
        keys = access(config, data, url, token, token_file)
        rotated = keys.rotate(key_id, overlap_ms, expires_at_ms)
        predecessor = rotated.pop("predecessor")
    if output is Output.JSON:
        views.print_json({"ingestion-api-key": rotated, "rotated-ingestion-api-key": predecessor})
        return
    _say_generated(rotated["apiKey"])
    info(views.rotation(rotated, predecessor))


@app.command(
    name="hash", epilog=examples("gateway keys hash --name agent-eu < key.txt >> keys.yaml")
)
def hash_key(
    *,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="What the key is for.")
    ] = None,
    description: DescriptionOption = None,
    expiration: ExpirationOption = None,
    key_file: Annotated[
        str,
        typer.Option("--key-file", metavar="FILE", help="Where the key is (- is standard input)."),
    ] = "-",
    output: OutputOption = Output.TEXT,
) -> None:
    """Write the entry of a file store (YAML) for a key: its SHA-256, not the key."""
    with explained(output):
        key = _read_key(key_file)
        entry: dict[str, object] = {"id": new_key_id(), "digest": f"sha256:{key.digest.hex()}"}
        if name:
            entry["name"] = name
        if description:
            entry["description"] = description
        if expiration is not None:
            entry["expiration"] = describe_day(parse_expiration(expiration))
    if output is Output.JSON:
        views.print_json(entry)
        return
    import yaml

    info(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).rstrip())


key_changes.add_to(app)


# Reading what was given


def _read_key(source: str) -> KeyMaterial:
    """Read a key from a file or standard input; one line break at its end does not belong to it."""
    if source == "-" and sys.stdin.isatty():
        return KeyMaterial.adopt(getpass.getpass("Key: ", stream=sys.stderr))
    try:
        raw = _read_bytes(source)
    except OSError as failure:
        # The path is not repeated: it might be the key itself, typed in the wrong place.
        msg = f"the file with the key cannot be read: {failure.strerror}"
        raise InvalidInputError(msg) from failure
    # Each byte becomes one character: what is not ASCII is refused by `adopt`.
    return KeyMaterial.adopt(raw.decode("latin-1").removesuffix("\n").removesuffix("\r"))


def _read_bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read(_MOST_KEY_FILE_BYTES)
    with Path(source).open("rb") as file:
        return file.read(_MOST_KEY_FILE_BYTES)


# Writing results


def _say_generated(key: str) -> None:
    success(f"Ingestion API Key generated: {key}")
    info()
