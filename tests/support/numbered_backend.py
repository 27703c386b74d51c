"""A backend in a process of its own, to be killed, frozen and started again: it writes down each
item's number before it answers, and its answers say which items they are for.

`python -m tests.support.numbered_backend GRPC_PORT HTTP_PORT FILE`. Each line of FILE is a protocol
(`grpc` or `http`) and a number. SIGUSR1 ends all HTTP/2 connections with GOAWAY; SIGTERM ends the
process, with 1 if it has met with anything that no client of its may do.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from tests.support.decode import batch_of, numbers
from tests.support.exchange import Answer, Request
from tests.support.sink import RawSink

LONGEST_WORK_S: Final = 0.02
"""So that requests are open at any moment."""
CLOSES_AFTER_S: Final = 0.2
"""From GOAWAY to the end of the connection, whatever is still open."""


def text_for(items: list[int]) -> str:
    """Say which items an answer is for."""
    return "items " + " ".join(map(str, items))


def answer_text(message: bytes) -> str:
    """Return what a success says (raises google.protobuf's DecodeError)."""
    return ExportLogsServiceResponse.FromString(message).partial_success.error_message


def arrived(file: Path) -> Counter[tuple[str, int]]:
    """Return how often each item has arrived, by protocol and number."""
    if not file.exists():
        return Counter()
    whole = file.read_text().rpartition("\n")[0]
    lines = (line.split() for line in whole.splitlines())
    return Counter((protocol, int(number)) for protocol, number in lines)


class NumberedBackend:
    """The sink, what it answers, and where it writes numbers down."""

    def __init__(self, ports: tuple[int, int], file: Path) -> None:
        self.sink = RawSink(self._answer, ports=ports)
        self.sink.aborts_are_faults = False
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def _answer(self, request: Request) -> Answer:
        items = numbers(batch_of(request))
        protocol = "grpc" if request.is_grpc else "http"
        # In one piece, and in the kernel's hands before the answer: a kill takes nothing back.
        os.write(self._file, "".join(f"{protocol} {item}\n" for item in items).encode())
        self.sink.requests.clear()
        response = ExportLogsServiceResponse()
        response.partial_success.error_message = text_for(items)
        worked = asyncio.Event()
        work_s = random.uniform(0, LONGEST_WORK_S)
        asyncio.get_running_loop().call_later(work_s, worked.set)
        return Answer(body=response.SerializeToString(), wait_for=worked)

    def end_connections(self) -> None:
        """Send GOAWAY on each HTTP/2 connection, and close it a moment later."""
        loop = asyncio.get_running_loop()
        for side in self.sink.http2_connections:
            if not side.closed:
                side.goaway(side.highest_stream)
                loop.call_later(CLOSES_AFTER_S, side.abort)
        self.sink.http2_connections.clear()


async def _serve(ports: tuple[int, int], file: Path) -> int:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    backend = NumberedBackend(ports, file)
    async with backend.sink:
        loop.add_signal_handler(signal.SIGTERM, over.set)
        loop.add_signal_handler(signal.SIGUSR1, backend.end_connections)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await over.wait()
        faults = backend.sink.take_faults()
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    grpc_port, http_port, file = sys.argv[1:]
    sys.exit(asyncio.run(_serve((int(grpc_port), int(http_port)), Path(file))))
