"""Senders that number what they send, for as long as they are let, and judge every answer.

Clients that add nothing of their own, over gRPC with several requests at once on a connection and
over HTTP/1.1 with one after the other; the Python SDK's exporters; a Collector's, with queue and
retry.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.support.bodies import SIGNALS, logs
from tests.support.clients import Http2Client, Response
from tests.support.collector import Collector
from tests.support.exchange import GRPC, PROTOBUF, GrpcMessage
from tests.support.numbered_backend import answer_text, text_for
from tests.support.raw_http1 import BrokenOffError, raw_client
from tests.support.sdk import SdkSender

LOGS: Final = SIGNALS["logs"]
RETRYABLE_GRPC: Final = {1, 4, 8, 10, 11, 14, 15}
"""OTLP specification, "OTLP/gRPC Response": what an exporter sends again."""
RETRYABLE_RESETS: Final = {None, 7, 8}
"""A broken connection, REFUSED_STREAM and CANCEL: codes that exporters send again."""
RETRYABLE_HTTP: Final = {429, 502, 503, 504}
AT_ONCE: Final = 4
"""Requests on one HTTP/2 connection."""
COLLECTOR_ITEMS: Final = 5
"""In each of its batches."""
PAUSE_S: Final = 0.05
"""Between an SDK's batches, and a Collector's."""

Item = tuple[str, int]
"""The protocol, `grpc` or `http`, and a number."""


class NumberedSenders:
    """All of them together. `accepted` holds what was acknowledged, `handed_over` what a Collector
    has in its queue or has sent; `retryable` counts all other ends by what a client saw; `wrong` is
    what no client may see.
    """

    def __init__(self, port: int, authorization: str, collector: Collector) -> None:
        self.accepted: set[Item] = set()
        self.handed_over: set[Item] = set()
        self.retryable: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._port = port
        self._authorization = authorization
        self._collector = collector
        self._number = 0
        self._is_stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        clients: list[Callable[[], Awaitable[None]]] = [self._grpc, self._http]
        work = [self._again_and_again(send) for send in clients * 2]
        work += [self._sdk("grpc"), self._sdk("http"), self._through_the_collector()]
        self._tasks += [asyncio.create_task(part) for part in work]

    async def stop(self) -> None:
        """End after the requests that are open."""
        self._is_stopped = True
        await asyncio.gather(*self._tasks)

    def count(self, protocol: str) -> int:
        """Return how many items were acknowledged."""
        return sum(item[0] == protocol for item in self.accepted)

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _again_and_again(self, send: Callable[[], Awaitable[None]]) -> None:
        while not self._is_stopped:
            try:
                await send()
            except (ConnectionError, BrokenOffError) as error:
                self.retryable[type(error).__name__] += 1
                await asyncio.sleep(0.01)
            except TimeoutError:
                self.retryable["no answer"] += 1

    def _take(self, protocol: str, number: int, message: bytes) -> None:
        """Take note of a success, and see that it is this request's."""
        if (said := answer_text(message)) != text_for([number]):
            self.wrong.append(f"{protocol} item {number} got the answer {said!r}")
        self.accepted.add((protocol, number))

    async def _grpc(self) -> None:
        """Send several requests at once on one connection, as long as all are accepted."""
        async with Http2Client(self._port) as client:
            is_good = True
            while is_good and client.goaway is None and not self._is_stopped:
                sent = [self._one_grpc(client) for _ in range(AT_ONCE)]
                is_good = all(await asyncio.gather(*sent))

    async def _one_grpc(self, client: Http2Client) -> bool:
        number = self._next()
        body = GrpcMessage(compressed=False, data=logs([number]).SerializeToString()).to_bytes()
        head = (("content-type", GRPC), ("te", "trailers"), ("authorization", self._authorization))
        response = await client.request(LOGS.grpc_path, head, body)
        if response.ended and response.grpc_status == 0:
            self._take("grpc", number, response.message)
            return True
        self._note_grpc_error(response)
        return False

    def _note_grpc_error(self, response: Response) -> None:
        code = response.grpc_status
        if code in RETRYABLE_GRPC:
            self.retryable[f"grpc-status {code}"] += 1
        elif code is None and not response.ended and response.reset in RETRYABLE_RESETS:
            self.retryable[f"a stream ended by {response.reset or 'the connection'}"] += 1
        else:
            self.wrong.append(str(response))

    async def _http(self) -> None:
        """Send one request after the other on one connection, as long as it is kept."""
        async with raw_client(self._port) as client:
            while not self._is_stopped:
                number = self._next()
                body = logs([number]).SerializeToString()
                head = (
                    f"POST {LOGS.http_path} HTTP/1.1\r\nHost: gateway\r\n"
                    f"Authorization: {self._authorization}\r\n"
                    f"Content-Type: {PROTOBUF}\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                await client.send(head.encode() + body)
                answer = await client.receive_answer()
                if answer.start == "200":
                    self._take("http", number, answer.body)
                elif int(answer.start) in RETRYABLE_HTTP:
                    self.retryable[f"status {answer.start}"] += 1
                else:
                    self.wrong.append(str(answer))
                if answer.value("connection") == "close":
                    return

    async def _sdk(self, protocol: Any) -> None:
        """Export one batch after the other; what the SDK gives up within its time is lost."""
        sender = SdkSender(protocol, self._port, self._authorization, timeout_s=3.0)
        while not self._is_stopped:
            number = self._next()
            if await sender.send("logs", [number]):
                self.accepted.add((protocol, number))
            else:
                self.retryable[f"the SDK gave up over {protocol}"] += 1
            await asyncio.sleep(PAUSE_S)

    async def _through_the_collector(self) -> None:
        """Hand one batch after the other over: both its exporters have to bring it."""
        while not self._is_stopped:
            items = [self._next() for _ in range(COLLECTOR_ITEMS)]
            await self._collector.send("logs", items)
            self.handed_over.update((way, item) for way in ("grpc", "http") for item in items)
            await asyncio.sleep(PAUSE_S)


def exporters(port: int, authorization: str) -> dict[str, Any]:
    """Return a Collector's part with an exporter of each protocol, that never gives up."""
    common = {
        "headers": {"Authorization": authorization},
        "sending_queue": {"queue_size": 1_000_000},
        "retry_on_failure": {
            "initial_interval": "200ms",
            "max_interval": "1s",
            "max_elapsed_time": "0s",
        },
    }
    grpc = {"endpoint": f"127.0.0.1:{port}", "tls": {"insecure": True}}
    http = {"endpoint": f"http://127.0.0.1:{port}"}
    return {"exporters": {"otlp": common | grpc, "otlphttp": common | http}}
