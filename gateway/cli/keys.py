"""`gateway keys`: create, list, delete, rotate and hash keys, in the words of the `sts` CLI.

Works on the store itself, whether a gateway runs on it or not; a running one takes changes over by
itself, and create, delete and rotate wait until it has. The rules are in `keys.manage`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import getpass
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli import key_views as views
from gateway.cli.output import Exit, fail, info, success
from gateway.keys.errors import (
    InvalidInputError,
    KeyRefusedError,
    StoreError,
    StoreForeignError,
    StoreTooNewError,
)
from gateway.keys.manage import Issued, KeyManager, parse_expiration
from gateway.keys.material import InvalidKeyError, KeyMaterial, new_key_id
from gateway.keys.record import describe_day
from gateway.model import MAX_KEY_ID

_MOST_KEY_FILE_BYTES: Final = 4_096
_MOST_ID_DIGITS: Final = len(str(MAX_KEY_ID))

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a key
    help="Create, list, delete and rotate the keys that senders use.",
)


def _examples(*lines: str) -> str:
    """Write examples below a command's help, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(lines)


def _key_id(text: str) -> int:
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
        help="The gateway's configuration: its first SQLite or PostgreSQL store is used."
        " Else $GATEWAY_CONFIG.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Use DIR/keys.db, as `gateway demo --data DIR` does."
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Text, or JSON for scripts.")]
IdOption = Annotated[
    int,
    typer.Option("--id", "-i", metavar="ID", parser=_key_id, help="The key's id, see `list`."),
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


@app.command(
    epilog=_examples(
        "gateway keys create --name agent-eu --expiration 2030-12-31",
        "gateway keys create --name agent-eu --output json",
        "gateway keys create --name old-receiver-key --key-file - < key.txt",
    )
)
def create(
    name: NameOption,
    description: DescriptionOption = None,
    expiration: ExpirationOption = None,
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
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a key. It is shown once: only its SHA-256 is kept.

    With --key-file an existing key is adopted instead: 1 to 512 visible ASCII characters.
    """
    with _explained(output):
        from gateway.cli import key_store

        expires_at_ms = None if expiration is None else parse_expiration(expiration)
        adopted = None if key_file is None else _read_key(key_file)

        async def add(manager: KeyManager) -> Issued:
            if adopted is None:
                return await manager.create(name, description, expires_at_ms)
            return await manager.adopt(adopted, name, description, expires_at_ms)

        store = key_store.store_of(config, data)
        issued = key_store.change(store, add, lambda added: added.record.revision, create=True)
    key = None if adopted is not None else issued.key
    if output is Output.JSON:
        views.print_json({"ingestion-api-key": views.as_json(issued.record, key)})
    elif key is None:
        success(f"Ingestion API Key adopted: {issued.record.id}")
    else:
        _say_generated(key)


@app.command(
    name="list",
    epilog=_examples(
        "gateway keys list",
        "gateway keys list --config /etc/gateway/gateway.yaml --output json",
    ),
)
def list_keys(
    config: ConfigOption = None, data: DataOption = None, output: OutputOption = Output.TEXT
) -> None:
    """List all keys that are not deleted, by name; never the keys themselves.

    Times are UTC. LAST USED is up to 5 seconds late while a gateway runs.
    """
    with _explained(output):
        from gateway.cli import key_store

        store = key_store.store_of(config, data)
        records, usage = asyncio.run(key_store.read_all(store))
    if output is Output.JSON:
        views.print_json(
            {
                "ingestion-api-keys": [
                    views.as_json(each, usage=usage.get(each.key_id)) for each in records
                ]
            }
        )
    elif not records:
        info("No ingestion api keys found.")
    else:
        views.print_table(records, usage)


@app.command(epilog=_examples("gateway keys delete --id 250558013078953"))
def delete(
    key_id: IdOption,
    config: ConfigOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a key: senders that use it are refused from now on."""
    with _explained(output):
        from gateway.cli import key_store

        store = key_store.store_of(config, data)
        deleted = key_store.change(
            store, lambda manager: manager.delete(key_id), lambda key: key.revision
        )
    if output is Output.JSON:
        views.print_json({"deleted-ingestion-api-key": deleted.id})
    else:
        success(f"Ingestion Api Key deleted: {deleted.id}")


@app.command(epilog=_examples("gateway keys rotate --id 250558013078953 --overlap 24h"))
def rotate(
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
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a successor of a key, with the same name; the old key expires after the overlap."""
    with _explained(output):
        from gateway.cli import key_store

        overlap_ms = _duration_ms(overlap)
        expires_at_ms = None if expiration is None else parse_expiration(expiration)
        store = key_store.store_of(config, data)
        rotated = key_store.change(
            store,
            lambda manager: manager.rotate(key_id, overlap_ms, expires_at_ms),
            lambda rotated: rotated.predecessor.revision,
        )
    issued, predecessor = rotated.issued, rotated.predecessor
    if output is Output.JSON:
        views.print_json(
            {
                "ingestion-api-key": views.as_json(issued.record, issued.key),
                "rotated-ingestion-api-key": views.as_json(predecessor),
            }
        )
        return
    _say_generated(issued.key)
    info(views.rotation(issued.record, predecessor))


@app.command(
    name="hash", epilog=_examples("gateway keys hash --name agent-eu < key.txt >> keys.yaml")
)
def hash_key(
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
    with _explained(output):
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


@contextlib.contextmanager
def _explained(output: Output) -> Iterator[None]:
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


def _duration_ms(text: str) -> int:
    from gateway.config.units import parse_duration

    try:
        return round(parse_duration(text) * 1000)
    except ValueError as failure:
        msg = f"--overlap: {failure}"
        raise InvalidInputError(msg) from failure


# Writing results


def _say_generated(key: KeyMaterial) -> None:
    success(f"Ingestion API Key generated: {key.reveal()}")
    info()
