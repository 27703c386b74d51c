"""`gateway receive`: the debug receiver alone."""

from __future__ import annotations

import asyncio
import enum
import signal
import sys
from typing import Annotated, Final

import typer

from gateway.cli.output import Exit, fail
from gateway.receiver import ListenError, Receiver, Record
from gateway.receiver.printer import LinePrinter

DEFAULT_GRPC: Final = "127.0.0.1:4317"
DEFAULT_HTTP: Final = "127.0.0.1:4318"
DEFAULT_INTAKE: Final = "127.0.0.1:7077"


class Output(enum.StrEnum):
    """What is written for each request."""

    TEXT = "text"
    JSON = "json"


def receive(
    grpc: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help=f"Listen for OTLP/gRPC, e.g. {DEFAULT_GRPC}."),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help=f"Listen for OTLP/HTTP, e.g. {DEFAULT_HTTP}."),
    ] = None,
    intake: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help=f"Listen for StackState agents, e.g. {DEFAULT_INTAKE}."),
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="A line for people, or JSON, per request.")
    ] = Output.TEXT,
) -> None:
    """Receive OTLP and what agents send, and print what arrives: a backend for trying things out.

    Without an address it listens on 127.0.0.1:4317 and 127.0.0.1:4318. Every address speaks all
    protocols. Keys are not checked; they are shown masked. Stops with Ctrl-C.

    Examples:

    gateway receive

    gateway receive --http 127.0.0.1:0 --output json

    gateway receive --intake 127.0.0.1:7077
    """
    if grpc is None and http is None and intake is None:
        grpc, http = DEFAULT_GRPC, DEFAULT_HTTP
    try:
        asyncio.run(_receive(grpc, http, intake, output))
    except ListenError as error:
        fail(str(error), Exit.BAD_INPUT)


async def _receive(grpc: str | None, http: str | None, intake: str | None, output: Output) -> None:
    """Receive and print until a signal comes or nobody reads any more."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    printer = LinePrinter(sys.stdout.fileno(), on_broken=stopping.set)

    async def tell(record: Record) -> None:
        await printer.write(record.to_json() if output is Output.JSON else record.to_line())

    async with Receiver(tell, grpc=grpc, http=http, intake=intake) as receiver:
        addresses = " and ".join(receiver.addresses)
        kinds = "OTLP/gRPC and OTLP/HTTP" + (" and agents" if intake is not None else "")
        typer.echo(f"Receiving {kinds} on {addresses}. Ctrl-C stops.", err=True)
        await stopping.wait()
    await printer.close()
