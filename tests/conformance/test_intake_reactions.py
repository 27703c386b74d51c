"""What each kind of agent does with our answer, whatever the receiver does: nothing is lost that a
direct connection would have kept.

An agent's reaction is a function of what it sees, written down from the wire contract's table of
reactions. A scripted receiver does everything that receivers do; each agent meets it directly and
through the gateway, and the fate of its data is compared, and both stand in the table below.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.support.clients import Response
from tests.support.exchange import Answer, Break
from tests.support.intake import SENT, Sent
from tests.support.intake_gateway import ask, gateway_before
from tests.support.plane import KEY, RunningWorker, entry, limits
from tests.support.sink import RawSink


class Fate(enum.IntEnum):
    """What becomes of the data, from bad to good."""

    LOST = 0
    """Dropped, or taken for accepted although it was not."""
    RETRIED = 1
    KEPT = 2
    """The receiver has it."""


L, R, K = Fate.LOST, Fate.RETRIED, Fate.KEPT

Seen = int | None
"""What an agent sees: a status, or None for a broken connection or a timeout."""


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def main_forwarder_v2(seen: Seen) -> Fate:
    """Drop on 400, 403, 404, 413; retry everything else, 401 and 429 too."""
    if seen is None:
        return R
    if _is_success(seen):
        return K
    return L if seen in {400, 403, 404, 413} else R


def main_forwarder_v3(seen: Seen) -> Fate:
    """As version 2, but 404 is retried."""
    return R if seen == 404 else main_forwarder_v2(seen)


def transactional(seen: Seen) -> Fate:
    """go-retryablehttp: retry errors, 429 and 5xx but 501; all else is acknowledged."""
    if seen is None or seen == 429 or (seen >= 500 and seen != 501):
        return R
    return K if _is_success(seen) else L


def process_agent(seen: Seen) -> Fate:
    """Retry nothing but a broken connection (architecture §5 on its routes)."""
    if seen is None:
        return R
    return K if _is_success(seen) or seen == 300 else L


def promtail(seen: Seen) -> Fate:
    """Retry errors, 429 and 5xx."""
    if seen is None or seen == 429 or seen >= 500:
        return R
    return K if _is_success(seen) else L


def rbac_agent(seen: Seen) -> Fate:
    """Log every error and go on; its next snapshot is another request."""
    return K if seen is not None and _is_success(seen) else L


def trace_agent(seen: Seen) -> Fate:
    """Retry errors and 5xx; drop on 429."""
    if seen is None or seen >= 500:
        return R
    return K if _is_success(seen) else L


@dataclass(frozen=True)
class Family:
    """A kind of agent, and one request of it."""

    name: str
    sends: str
    reacts: Callable[[Seen], Fate]

    @property
    def sent(self) -> Sent:
        return next(sent for sent in SENT if sent.name == self.sends)


FAMILIES: Final = (
    Family("main forwarder v2", "main forwarder v2, intake", main_forwarder_v2),
    Family("main forwarder v3", "main forwarder v3, intake", main_forwarder_v3),
    Family("transactional", "transactional forwarder", transactional),
    Family("process agent", "process agent, connections", process_agent),
    Family("promtail", "Promtail", promtail),
    Family("RBAC agent", "RBAC agent, scope", rbac_agent),
    Family("trace agent", "trace agent, traces", trace_agent),
)


@dataclass(frozen=True)
class Receiver:
    """What the receiver does, and the fate of each family's data: directly, through the gateway."""

    does: str
    answer: Answer
    fates: tuple[tuple[Fate, Fate], ...]


def _receiver(does: str, answer: Answer, direct: str, through: str) -> Receiver:
    fates = {"L": L, "R": R, "K": K}
    pairs = zip(direct, through, strict=True)
    return Receiver(does, answer, tuple((fates[one], fates[other]) for one, other in pairs))


# One letter for each family, in their order: L(ost), R(etried), K(ept).
RECEIVERS: Final = (
    _receiver("200", Answer(200), "KKKKKKK", "KKKKKKK"),
    _receiver("202", Answer(202), "KKKKKKK", "KKKKKKK"),
    _receiver("400", Answer(400), "LLLLLLL", "LLLLLLL"),
    # The gateway has allowed the key, so a refusal of the receiver is a misconfiguration here.
    _receiver("401", Answer(401), "RRLLLLL", "RRRRRLR"),
    _receiver("403", Answer(403), "LLLLLLL", "RRRRRLR"),
    _receiver("404", Answer(404), "LRLLLLL", "LRLLLLL"),
    _receiver("413", Answer(413), "LLLLLLL", "LLLLLLL"),
    _receiver("429", Answer(429), "RRRLRLL", "RRRLRLL"),
    _receiver("500", Answer(500), "RRRLRLR", "RRRLRLR"),
    _receiver("503", Answer(503), "RRRLRLR", "RRRLRLR"),
    _receiver("closes at once", Answer(breaks=Break("close")), "RRRRRLR", "RRRRRLR"),
    _receiver("resets", Answer(breaks=Break("reset")), "RRRRRLR", "RRRRRLR"),
    _receiver(
        "closes mid-answer",
        Answer(202, body=b"0123456789", breaks=Break("close", after="half")),
        "RRRRRLR",
        "RRRRRLR",
    ),
    _receiver("never answers", Answer(breaks=Break("silence")), "RRRRRLR", "RRRRRLR"),
)


def _seen(response: Response) -> Seen:
    """Judge by what Go's client gives its caller: an answer that breaks off is an error."""
    return response.status if response.ended else None


async def _direct(sink: RawSink, sent: Sent, receiver: Receiver) -> Seen:
    target = sent.target.removeprefix("/receiver")
    call = asyncio.create_task(
        ask(sink.http_port, target, sent.fields, sent.body, method=sent.method)
    )
    if receiver.does == "never answers":
        await sink.wait_for(1)
        call.cancel()  # the agent's own time is over
        await asyncio.gather(call, return_exceptions=True)
        return None
    return _seen(await call)


async def _through(gateway: RunningWorker, sink: RawSink, sent: Sent, *, http2: bool) -> Seen:
    count = len(sink.requests)
    call = asyncio.create_task(
        ask(gateway.port, sent.target, sent.fields, sent.body, method=sent.method, http2=http2)
    )
    await gateway.until(lambda: len(sink.requests) > count or call.done())
    if len(sink.requests) > count:
        answer = sink.script(sink.requests[-1])
        if answer.breaks is not None and answer.breaks.how == "silence":
            gateway.sweep(61)
    return _seen(await call)


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("receiver", RECEIVERS, ids=lambda receiver: receiver.does)
async def test_nothing_is_lost_that_a_direct_connection_would_have_kept(
    receiver: Receiver, family: Family, http2: bool
) -> None:
    expected = receiver.fates[FAMILIES.index(family)]
    sent = family.sent
    async with RawSink(lambda _: receiver.answer) as sink:
        direct = await _direct(sink, sent, receiver)
        async with gateway_before(sink, sweeping=False) as gateway:
            through = await _through(gateway, sink, sent, http2=http2)
        sink.take_faults()
    assert (family.reacts(direct), family.reacts(through)) == expected
    assert expected[1] >= expected[0]


@dataclass(frozen=True)
class Cause:
    """What the gateway itself may say, and the fate of each family's data."""

    name: str
    setting: Callable[[], dict[str, Any]]
    fates: str
    key: str = KEY


CAUSES: Final = (
    # Only an agent that retries nothing at all loses what the gateway cannot take now.
    Cause("cannot tell", lambda: {"keys": None}, "RRRRRLR"),
    Cause("overload", lambda: {"limits": limits(buffer_memory_bytes=0)}, "RRRRRLR"),
    Cause("no receiver configured", lambda: {"backends": ()}, "RRRRRLR"),
    Cause("an unknown key", lambda: {"keys": [entry("another")]}, "LLLLLLL"),
    Cause("too large", lambda: {"limits": limits(max_body_bytes=1)}, "LLLLLLL"),
)


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
async def test_what_the_gateway_cannot_take_now_is_retried_and_a_no_is_final(
    cause: Cause, family: Family, http2: bool
) -> None:
    sent = family.sent
    expected = {"L": L, "R": R}[cause.fates[FAMILIES.index(family)]]
    async with RawSink() as sink, gateway_before(sink, **cause.setting()) as gateway:
        seen = _seen(await ask(gateway.port, sent.target, sent.fields, sent.body, http2=http2))
        assert family.reacts(seen) == expected
        assert not sink.requests
