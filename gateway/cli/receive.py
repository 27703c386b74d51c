"""`gateway receive`: run only the debug receiver."""

from __future__ import annotations

import asyncio
import enum
import signal
import sys
from typing import Annotated, Final

import typer

from gateway.cli.output import Exit, fail
from gateway.receiver import ListenError, ReceivedRequest, Receiver
from gateway.receiver.printer import LinePrinter

DEFAULT_GRPC: Final = "127.0.0.1:4317"
DEFAULT_HTTP: Final = "127.0.0.1:4318"
DEFAULT_INTAKE: Final = "127.0.0.1:7077"


class Output(enum.StrEnum):
    """The output format for each request."""

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
        Output, typer.Option("--output", "-o", help="One line of text, or JSON, per request.")
    ] = Output.TEXT,
) -> None:
    """Receive OTLP and agent data, and print what arrives: a backend for trying things out.

    Without an address it listens on 127.0.0.1:4317 and 127.0.0.1:4318. Every address speaks all
    protocols. API keys are not checked; they are shown masked. Press Ctrl-C to stop.

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
    """Receive and print until a signal arrives or the reader of stdout is gone."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    printer = LinePrinter(sys.stdout.fileno(), on_broken=stopping.set)

    async def show(received: ReceivedRequest) -> None:
        await printer.write(received.to_json() if output is Output.JSON else received.to_line())

    async with Receiver(show, grpc=grpc, http=http, intake=intake) as receiver:
        addresses = " and ".join(receiver.addresses)
        kinds = "OTLP/gRPC and OTLP/HTTP" + (" and agents" if intake is not None else "")
        typer.echo(f"Receiving {kinds} on {addresses}. Press Ctrl-C to stop.", err=True)
        await stopping.wait()
    await printer.close()
