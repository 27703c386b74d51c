"""A server that answers every HTTP request with the same body, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

HOST: Final = "127.0.0.1"


class ForeignServer:
    """Where it is, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.asked: list[str] = []
        """Method and target of each request; `CONNECT host:port` from a client of a proxy."""
        self.heads: list[str] = []


@contextlib.contextmanager
def foreign_server(body: bytes = b"", status: int = 200) -> Iterator[ForeignServer]:
    """Run one that answers with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            server.asked.append(f"{self.command} {self.path}")
            server.heads.append(str(self.headers))
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = do_CONNECT = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Be silent."""

    listening = ThreadingHTTPServer((HOST, 0), Handler)
    server = ForeignServer(listening.server_address[1])
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
