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
from tests.support.plane import RunningWorker, entry, limits
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
    """Retry nothing: neither a status nor a broken connection (measured with its own client)."""
    return K if seen is not None and (_is_success(seen) or seen == 300) else L


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
    direct: dict[str, Fate]
    through: dict[str, Fate]


def _fates(letters: str) -> dict[str, Fate]:
    """Family → the fate of its data; one letter for each."""
    fates = {"L": L, "R": R, "K": K}
    return {family.name: fates[letter] for family, letter in zip(FAMILIES, letters, strict=True)}


def _receiver(does: str, answer: Answer, direct: str, through: str) -> Receiver:
    return Receiver(does, answer, _fates(direct), _fates(through))


# One letter for each family, in their order: L(ost), R(etried), K(ept).
RECEIVERS: Final = (
    _receiver("200", Answer(200), "KKKKKKK", "KKKKKKK"),
    _receiver("202", Answer(202), "KKKKKKK", "KKKKKKK"),
    _receiver("400", Answer(400), "LLLLLLL", "LLLLLLL"),
    # The gateway has allowed the key, so a refusal of the receiver is a misconfiguration here.
    _receiver("401", Answer(401), "RRLLLLL", "RRRLRLR"),
    _receiver("403", Answer(403), "LLLLLLL", "RRRLRLR"),
    _receiver("404", Answer(404), "LRLLLLL", "LRLLLLL"),
    _receiver("413", Answer(413), "LLLLLLL", "LLLLLLL"),
    _receiver("429", Answer(429), "RRRLRLL", "RRRLRLL"),
    _receiver("500", Answer(500), "RRRLRLR", "RRRLRLR"),
    _receiver("503", Answer(503), "RRRLRLR", "RRRLRLR"),
    _receiver("closes at once", Answer(breaks=Break("close")), "RRRLRLR", "RRRLRLR"),
    _receiver("resets", Answer(breaks=Break("reset")), "RRRLRLR", "RRRLRLR"),
    _receiver(
        "closes mid-answer",
        Answer(202, body=b"0123456789", breaks=Break("close", after="half")),
        "RRRLRLR",
        "RRRLRLR",
    ),
    _receiver("never answers", Answer(breaks=Break("silence")), "RRRLRLR", "RRRLRLR"),
)


def _seen(response: Response) -> Seen:
    """Judge by what Go's client gives its caller: an answer that breaks off is an error."""
    return response.status if response.ended else None


async def _direct(sink: RawSink, sent: Sent, receiver: Receiver) -> Seen:
    target = sent.target.removeprefix("/receiver")
    count = len(sink.requests)
    call = asyncio.create_task(
        ask(sink.http_port, target, sent.fields, sent.body, method=sent.method)
    )
    if receiver.does == "never answers":
        await sink.wait_for(count + 1)
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
@pytest.mark.parametrize("receiver", RECEIVERS, ids=lambda receiver: receiver.does)
async def test_nothing_is_lost_that_a_direct_connection_would_have_kept(
    receiver: Receiver, http2: bool
) -> None:
    direct, through = dict[str, Fate](), dict[str, Fate]()
    async with RawSink(lambda _: receiver.answer) as sink:
        for family in FAMILIES:
            direct[family.name] = family.reacts(await _direct(sink, family.sent, receiver))
            async with gateway_before(sink, sweeping=False) as gateway:
                seen = await _through(gateway, sink, family.sent, http2=http2)
                through[family.name] = family.reacts(seen)
        sink.take_faults()
    assert (direct, through) == (receiver.direct, receiver.through)
    assert all(through[name] >= fate for name, fate in direct.items())


@dataclass(frozen=True)
class Cause:
    """What the gateway itself may say, and the fate of each family's data."""

    name: str
    setting: Callable[[], dict[str, Any]]
    fates: str


CAUSES: Final = (
    # Only agents that retry nothing at all lose what the gateway cannot take now.
    Cause("cannot tell", lambda: {"keys": None}, "RRRLRLR"),
    Cause("overload", lambda: {"limits": limits(buffer_memory_bytes=0)}, "RRRLRLR"),
    Cause("no receiver configured", lambda: {"backends": ()}, "RRRLRLR"),
    Cause("an unknown key", lambda: {"keys": [entry("another")]}, "LLLLLLL"),
    Cause("too large", lambda: {"limits": limits(max_body_bytes=1)}, "LLLLLLL"),
)


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
async def test_what_the_gateway_cannot_take_now_is_retried_and_a_no_is_final(
    cause: Cause, http2: bool
) -> None:
    fates = dict[str, Fate]()
    async with RawSink() as sink, gateway_before(sink, **cause.setting()) as gateway:
        for family in FAMILIES:
            sent = family.sent
            answer = await ask(gateway.port, sent.target, sent.fields, sent.body, http2=http2)
            fates[family.name] = family.reacts(_seen(answer))
        assert not sink.requests
    assert fates == _fates(cause.fates)
