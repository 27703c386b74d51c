from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.model import Signal
from gateway.otlp.services import SERVICES
from gateway.receiver import ReceivedRequest, Receiver
from gateway.sender.explain import Verdict
from gateway.sender.run import Attempt, send
from gateway.sender.target import Plan, PlanError, SendProtocol, Tls, parse_endpoint
from tests.support.certs import Authority
from tests.support.exchange import Answer, Break, Request
from tests.support.sink import RawSink

ALL = tuple(SERVICES)


def _plan(url: str, protocol: SendProtocol, signals: tuple[Signal, ...] = ALL) -> Plan:
    return Plan(parse_endpoint(url, protocol), protocol, signals)


async def _all(plan: Plan) -> list[Attempt]:
    return [attempt async for attempt in send(plan)]


@pytest.fixture(name="records")
def _records() -> list[ReceivedRequest]:
    return []


@pytest.fixture(name="receiver")
async def _receiver(records: list[ReceivedRequest]) -> AsyncIterator[Receiver]:
    async with Receiver(records.append) as receiver:
        yield receiver


@pytest.mark.parametrize("protocol", SendProtocol)
async def test_every_round_sends_every_signal_and_counts_what_it_sent(
    receiver: Receiver, records: list[ReceivedRequest], protocol: SendProtocol
) -> None:
    plan = replace(_plan(f"http://{receiver.grpc_address}", protocol), count=2)
    attempts = await _all(plan)
    is_intake = protocol is SendProtocol.INTAKE
    expected = [Signal.INTAKE] * 2 if is_intake else [*ALL]
    assert [attempt.service.signal for attempt in attempts] == expected * 2
    assert all(attempt.explanation.verdict is Verdict.ACCEPTED for attempt in attempts)
    sent = [(attempt.service.signal, attempt.items, attempt.bytes) for attempt in attempts]
    assert [(record.signal, record.items, record.bytes) for record in records] == sent
    assert len({record.peer for record in records}) == 1


async def test_the_time_of_a_request_is_measured_by_the_given_stopwatch(receiver: Receiver) -> None:
    readings = iter([10.0, 10.5])
    plan = _plan(f"http://{receiver.http_address}", SendProtocol.HTTP, (Signal.LOGS,))
    (attempt,) = [
        attempt async for attempt in send(plan, lambda: 0, stopwatch=lambda: next(readings))
    ]
    assert attempt.duration_s == 0.5


async def test_sending_ends_with_the_first_request_that_finds_nobody() -> None:
    async with RawSink() as sink:
        url = sink.grpc_url
    attempts = await _all(_plan(url, SendProtocol.GRPC))
    assert [attempt.explanation.verdict for attempt in attempts] == [Verdict.UNREACHABLE]


async def test_a_refusal_does_not_end_the_sending() -> None:
    def refuse_logs(request: Request) -> Answer:
        return Answer(grpc_status=7 if "Logs" in request.path else 0)

    async with RawSink(refuse_logs) as sink:
        attempts = await _all(_plan(sink.grpc_url, SendProtocol.GRPC))
    verdicts = {attempt.service.signal: attempt.explanation.verdict for attempt in attempts}
    refused = {signal for signal, verdict in verdicts.items() if verdict is Verdict.REFUSED}
    assert refused == {Signal.LOGS}
    assert len(verdicts) == 4


async def test_after_a_goodbye_that_follows_an_answer_a_new_connection_is_made() -> None:
    async with RawSink() as sink:
        plan = replace(_plan(sink.grpc_url, SendProtocol.GRPC, (Signal.LOGS,)), count=2)
        async with contextlib.aclosing(send(plan)) as attempts:
            first = await anext(attempts)
            sink.http2_connections[0].goaway(last_stream_id=1)
            second = await anext(attempts)
    verdicts = [first.explanation.verdict, second.explanation.verdict]
    assert verdicts == [Verdict.ACCEPTED] * 2


@pytest.mark.parametrize("protocol", [SendProtocol.GRPC, SendProtocol.HTTP])
async def test_a_server_that_never_answers_is_given_up_after_the_timeout(
    protocol: SendProtocol,
) -> None:
    answer = Answer(breaks=Break("silence"))
    async with RawSink(lambda _request: answer) as sink:
        url = sink.grpc_url if protocol is SendProtocol.GRPC else sink.http_url
        plan = replace(_plan(url, protocol, (Signal.LOGS,)), timeout_s=0.2)
        (attempt,) = await _all(plan)
        sink.take_faults()
    assert attempt.explanation.verdict is Verdict.UNREACHABLE
    assert "within 0.2 s" in attempt.explanation.headline


@pytest.mark.parametrize("protocol", SendProtocol)
async def test_cleartext_sent_to_a_tls_port_is_recognised(
    protocol: SendProtocol, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    async with RawSink(tls=authority.issue("server", ["127.0.0.1"]).server_context()) as sink:
        port = sink.grpc_port if protocol is SendProtocol.GRPC else sink.http_port
        (attempt,) = await _all(_plan(f"http://127.0.0.1:{port}", protocol, (Signal.LOGS,)))
        sink.take_faults()
    assert "requires TLS" in attempt.explanation.headline


async def test_http_sent_to_a_grpc_port_is_recognised() -> None:
    async with RawSink() as sink:
        (attempt,) = await _all(_plan(sink.grpc_url, SendProtocol.HTTP, (Signal.LOGS,)))
        sink.take_faults()
    assert "speaks only HTTP/2" in attempt.explanation.headline


async def test_grpc_sent_to_an_http_port_is_recognised() -> None:
    async with RawSink() as sink:
        (attempt,) = await _all(_plan(sink.http_url, SendProtocol.GRPC, (Signal.LOGS,)))
        sink.take_faults()
    assert "speaks only HTTP/1.1" in attempt.explanation.headline


async def test_all_protocols_pass_over_tls_with_the_right_ca(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    async with RawSink(tls=authority.issue("server", ["127.0.0.1"]).server_context()) as sink:
        for protocol in SendProtocol:
            url = sink.grpc_url if protocol is SendProtocol.GRPC else sink.http_url
            plan = replace(_plan(url, protocol, (Signal.LOGS,)), tls=Tls(authority.cert_file))
            attempts = await _all(plan)
            assert len(attempts) == len(plan.services)
            for attempt in attempts:
                assert attempt.explanation.verdict is Verdict.ACCEPTED, attempt


async def test_an_unusable_ca_file_is_a_fault_of_the_plan(tmp_path: Path) -> None:
    for protocol in SendProtocol:
        plan = replace(_plan("https://127.0.0.1:1", protocol), tls=Tls(tmp_path / "none"))
        with pytest.raises(PlanError, match="--ca-file"):
            await _all(plan)


async def test_giving_up_in_the_middle_closes_the_connection() -> None:
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )
        await reader.read()
        hung_up.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plan = replace(_plan(url, SendProtocol.JSON, (Signal.LOGS,)), count=100)
        async with contextlib.aclosing(send(plan)) as attempts:
            first = await anext(attempts)
        await asyncio.wait_for(hung_up.wait(), 20)
    assert first.explanation.verdict is Verdict.ACCEPTED
