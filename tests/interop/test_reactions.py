"""What real clients do with each answer: deliver, retry or drop.

The codes are only half of a contract; the other half is what the Collector's two exporters and the
Python SDK (versions pinned) make of them. A retryable outcome is healed after the first attempt,
so that "retried" means that every item has arrived, once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import pytest_asyncio

from tests.interop.fleet import AUTHORIZATION, Fleet, running_fleet
from tests.support.certs import Authority, Certificate
from tests.support.collector import DROPPED, running_collector
from tests.support.decode import batch_of, numbers
from tests.support.exchange import accept
from tests.support.sdk import SdkSender
from tests.support.sink import Answer, Break, Request, Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENDERS = ("otlp", "otlphttp", "sdk-grpc", "sdk-http")
ITEMS = range(10)
TOO_MANY = range(5000)
"""More than `limits.max_body` holds."""

Reaction = Literal["delivered", "retried", "dropped"]


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="fleet")
async def _fleet(
    tmp_path_factory: pytest.TempPathFactory, server_certificate: Certificate, authority: Authority
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    overrides = {"limits": {"max_body": "64KiB"}}
    async with running_fleet(folder, server_certificate, authority.cert_file, overrides) as fleet:
        fleet.sink.aborts_are_faults = False
        yield fleet


@dataclass(frozen=True, slots=True)
class Case:
    """One outcome: how it comes about, and what each sender must do then."""

    reaction: Reaction
    grpc: Answer = field(default_factory=Answer)
    """The backend's first answer; `http` likewise."""
    http: Answer = field(default_factory=Answer)
    authorization: str = AUTHORIZATION
    items: range = ITEMS
    reaches_backend: bool = True

    @property
    def attempts(self) -> int:
        """How many requests the backend sees in all."""
        return 2 if self.reaction == "retried" else int(self.reaches_backend)


CASES = {
    "accepted": Case("delivered"),
    "key missing": Case("dropped", authorization="", reaches_backend=False),
    "key malformed": Case("dropped", authorization="Bearer some-key", reaches_backend=False),
    "key unknown": Case(
        "dropped", authorization="StackState nobody-knows-this-key", reaches_backend=False
    ),
    "body too large": Case("dropped", items=TOO_MANY, reaches_backend=False),
    "the backend refuses the key that we allowed": Case(
        "retried", grpc=Answer(grpc_status=16), http=Answer(status=401)
    ),
    "the backend forbids the key that we allowed": Case(
        "retried", grpc=Answer(grpc_status=7), http=Answer(status=403)
    ),
    "the backend is overloaded": Case(
        "retried",
        grpc=Answer(grpc_status=14, grpc_message="busy"),
        http=Answer(status=503, fields=(("retry-after", "1"),)),
    ),
    "the backend times out": Case("retried", grpc=Answer(grpc_status=4), http=Answer(status=504)),
    "the backend finds the data bad": Case(
        "dropped", grpc=Answer(grpc_status=3), http=Answer(status=400)
    ),
    "the backend has no such route": Case(
        "dropped", grpc=Answer(grpc_status=12), http=Answer(status=404)
    ),
    "the backend closes before its answer": Case(
        "retried", grpc=Answer(breaks=Break("close")), http=Answer(breaks=Break("close"))
    ),
    "the backend resets before its answer": Case(
        "retried", grpc=Answer(breaks=Break("reset")), http=Answer(breaks=Break("reset"))
    ),
    "the backend breaks off after its head": Case(
        "retried",
        grpc=Answer(breaks=Break("reset", after="head")),
        http=Answer(body=b"unfinished", breaks=Break("close", after="head")),
    ),
    "the backend breaks off in its body": Case(
        "retried",
        grpc=Answer(body=b"unfinished", breaks=Break("close", after="half")),
        http=Answer(body=b"unfinished", breaks=Break("close", after="half")),
    ),
}


def once(case: Case) -> Script:
    """Return a script that answers a case's way once and accepts ever after."""
    asked: list[Request] = []

    def script(request: Request) -> Answer:
        asked.append(request)
        if len(asked) > 1:
            return Answer()
        return case.grpc if request.is_grpc else case.http

    return script


async def react_with_a_collector(
    fleet: Fleet, binary: Path, folder: Path, exporter: str, case: Case
) -> Reaction:
    settings: dict[str, Any] = {
        "compression": "none",
        "retry_on_failure": {"initial_interval": "100ms", "randomization_factor": 0},
    }
    if case.authorization:
        settings["headers"] = {"Authorization": case.authorization}
    if exporter == "otlp":
        settings |= {"endpoint": f"127.0.0.1:{fleet.port}", "tls": {"insecure": True}}
    else:
        settings |= {"endpoint": f"http://127.0.0.1:{fleet.port}"}
    part = {"exporters": {exporter: settings}}
    async with running_collector(binary, folder, part, ["traces"]) as collector:
        await collector.send("traces", case.items)
        if case.reaction == "dropped":
            await collector.program.wait_line(DROPPED)
        else:
            try:
                await fleet.sink.wait_for(case.attempts)
            except TimeoutError as error:
                pytest.fail(f"{error}; the Collector says:\n{collector.program.output}")
    return reaction_of(fleet, dropped=collector.logged(DROPPED) > 0)


def reaction_of(fleet: Fleet, *, dropped: bool) -> Reaction:
    """Name what has happened: a second attempt is a retry, whoever made it.

    (An HTTP/1.1 backend that closes a kept connection without a word is asked once more by the
    gateway itself.)
    """
    if dropped:
        return "dropped"
    return "retried" if len(fleet.sink.requests) > 1 else "delivered"


async def react_with_the_sdk(
    fleet: Fleet, protocol: Literal["grpc", "http"], case: Case
) -> Reaction:
    sender = SdkSender(protocol, fleet.port, case.authorization)
    sent = await sender.send("traces", case.items)
    return reaction_of(fleet, dropped=not sent)


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("name", CASES)
async def test_a_real_client_reacts_as_the_outcome_intends(
    fleet: Fleet, tool: Callable[[str], Path], tmp_path: Path, name: str, sender: str
) -> None:
    case = CASES[name]
    fleet.forget()
    fleet.sink.script = once(case)

    if sender.startswith("sdk-"):
        protocol = cast("Literal['grpc', 'http']", sender.removeprefix("sdk-"))
        reaction = await react_with_the_sdk(fleet, protocol, case)
    else:
        reaction = await react_with_a_collector(fleet, tool("otelcol"), tmp_path, sender, case)

    fleet.sink.script = accept
    assert reaction == case.reaction
    assert len(fleet.sink.requests) == case.attempts
    for request in fleet.sink.requests:
        assert sorted(numbers(batch_of(request))) == list(case.items)
    fleet.check()
    # A gRPC body declares no length: what is too large is broken off when that shows, rightly.
    assert [len(request.body) for request in fleet.sink.aborted if len(request.body) < 16_000] == []
