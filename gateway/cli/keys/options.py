"""Options of `gateway keys`: those that every command on keys has, and those that some share.

`command_on_keys` gives a command the options that all have, and with them a `Session`: where the
keys are, and how results are written.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.keys.access import KeyAccess
from gateway.cli.keys.place import Place, access
from gateway.cli.keys.tables import print_json
from gateway.cli.keys.values import parse_id
from gateway.cli.output import Exit, fail
from gateway.keys.api_key import InvalidKeyError
from gateway.keys.errors import (
    InvalidInputError,
    KeyRefusedError,
    StoreError,
    StoreForeignError,
    StoreTooNewError,
)


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
        " $GATEWAY_TOKEN.",
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
RequestsPerDayOption = Annotated[
    str | None,
    typer.Option(
        "--limit-requests-per-day",
        metavar="N",
        help="A quota: requests in a day of UTC, such as 100000; 0 and default as above.",
    ),
]
BytesPerDayOption = Annotated[
    str | None,
    typer.Option(
        "--limit-bytes-per-day",
        metavar="N",
        help="Bytes of bodies in a day, such as 10GiB; else as above.",
    ),
]
RequestsPerMonthOption = Annotated[
    str | None,
    typer.Option(
        "--limit-requests-per-month", metavar="N", help="Requests in a month; else as above."
    ),
]
BytesPerMonthOption = Annotated[
    str | None,
    typer.Option("--limit-bytes-per-month", metavar="N", help="Bytes in a month; else as above."),
]

OwnerOption = Annotated[
    str | None,
    typer.Option("--owner", metavar="TEXT", help="Who answers for the key's senders."),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME=VALUE",
        help="A label, such as team=a; may be repeated.",
    ),
]
HeadersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="A header that the backend gets with the key's requests, such as"
        " X-Scope-OrgID=team-a; may be repeated.",
    ),
]


def examples(*lines: str) -> str:
    """Write examples below a command's help, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(lines)


@dataclass(frozen=True, slots=True)
class Session:
    """What the options that every command on keys has say."""

    place: Place
    output: Output

    def keys(self) -> KeyAccess:
        """Find the keys. Raises `InvalidInputError` for options that do not go together."""
        return access(self.place)

    def wrote_json(self, value: object) -> bool:
        """Write `value` if the result is wanted as JSON; whether it was."""
        if self.output is Output.JSON:
            print_json(value)
        return self.output is Output.JSON


def command_on_keys(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_common_options`, and explain what fails in it.

    Its first parameter becomes the `Session`, the others stay options of its own. One that has its
    own `output` writes its results itself.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    has_own_output = any(option.name == "output" for option in own)

    @functools.wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401 - as typer read them
        place = Place(**{name: given.pop(name) for name in Place._fields})
        output = Output.TEXT
        if not has_own_output:
            output = given.pop("output")
        elif given["output"] == Output.JSON:
            output = Output.JSON
        with explained(output):
            command(Session(place, output), **given)

    common = list(inspect.signature(_common_options, eval_str=True).parameters.values())
    if has_own_output:
        common = [option for option in common if option.name != "output"]
    del run.__wrapped__  # typer would read the signature from it
    run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined] # as above
    run.__annotations__ = {option.name: option.annotation for option in [*own, *common]}
    return run


def _common_options(
    *,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stand for the options that every command on keys has, in the order of help."""


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
    print_json({"error": True, "error-message": str(failure)}, sys.stderr)
    raise typer.Exit(code)
