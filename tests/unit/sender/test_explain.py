from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.model import Signal
from gateway.otlp.services import SERVICES
from gateway.outcome import ERROR_DOMAIN, REFUSALS, GrpcCode, Refusal
from gateway.sender.explain import (
    REASON_ADVICE,
    Explanation,
    Verdict,
    explain_failure,
    explain_response,
)
from gateway.sender.response import RETRYABLE_HTTP, ExportResponse
from gateway.sender.target import Endpoint, Plan, SendProtocol, Tls
from gateway.sender.unreachable import Cause, UnreachableError

TRACES = SERVICES[Signal.TRACES]
PLAN = Plan(
    Endpoint(is_tls=True, host="example.test", port=4443),
    SendProtocol.GRPC,
    (Signal.TRACES,),
    timeout_s=2.5,
    tls=Tls(Path("ca.crt")),
)


def _text(explanation: Explanation) -> str:
    return "\n".join((explanation.headline, *explanation.facts, *explanation.advice))


def _gateways_answer(refusal: Refusal, *, is_grpc: bool) -> ExportResponse:
    """ExportResponse as the gateway does for a row of its table."""
    outcome = refusal.outcome
    return ExportResponse(
        grpc=outcome.grpc if is_grpc else None,
        http=200 if is_grpc else outcome.http,
        message=refusal.text,
        reason=refusal.reason,
        domain=ERROR_DOMAIN,
        retry_after_s=outcome.retry_after_s or None,
    )


def test_every_reason_of_the_gateway_has_advice_and_no_other_has() -> None:
    assert set(REASON_ADVICE) == set(REFUSALS)


@pytest.mark.parametrize("is_grpc", [True, False])
@pytest.mark.parametrize("reason", REFUSALS)
def test_every_refusal_of_the_gateway_is_explained(reason: str, *, is_grpc: bool) -> None:
    refusal = REFUSALS[reason]
    explanation = explain_response(_gateways_answer(refusal, is_grpc=is_grpc), TRACES)
    text = _text(explanation)
    assert explanation.verdict is Verdict.REFUSED
    assert reason in explanation.headline
    assert refusal.text[:100] in text
    assert explanation.advice
    drops, keeps = "drop the data" in text, "keep the data and retry" in text
    assert drops or keeps
    is_kept = any("keep the data" in fact and "SDKs" in fact for fact in explanation.facts)
    if reason != "CANCELED":  # nobody reads that answer
        assert is_kept == refusal.outcome.is_retryable


@pytest.mark.parametrize("code", [code for code in GrpcCode if code is not GrpcCode.OK])
def test_other_servers_grpc_codes_are_told_by_name(code: GrpcCode) -> None:
    explanation = explain_response(ExportResponse(code, 200, message="their words"), TRACES)
    assert code.name in explanation.headline
    assert "their words" in _text(explanation)


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504]
)
def test_other_servers_http_codes_are_told_with_what_senders_do(status: int) -> None:
    text = _text(explain_response(ExportResponse(None, status), TRACES))
    assert f"HTTP {status}" in text
    assert ("keep the data" in text) == (status in RETRYABLE_HTTP)


def test_a_redirect_is_told_with_its_place() -> None:
    answer = ExportResponse(None, 308, location="https://new.test/", is_otlp=False)
    assert "https://new.test/" in _text(explain_response(answer, TRACES))


def test_a_web_page_instead_of_otlp_is_told() -> None:
    text = _text(
        explain_response(ExportResponse(None, 200, message="text/html", is_otlp=False), TRACES)
    )
    assert "not an OTLP response" in text
    assert "--endpoint" in text


def test_full_success_is_accepted() -> None:
    explanation = explain_response(ExportResponse(GrpcCode.OK, 200), TRACES)
    assert explanation == Explanation(Verdict.ACCEPTED, "accepted")


def test_partial_success_is_no_success() -> None:
    explanation = explain_response(
        ExportResponse(GrpcCode.OK, 200, rejected=2, warning="too old"), TRACES
    )
    assert explanation.verdict is Verdict.REFUSED
    assert "the server rejected 2 spans" in explanation.headline
    assert "too old" in _text(explanation)


def test_a_warning_is_a_success_that_is_told() -> None:
    explanation = explain_response(ExportResponse(None, 200, warning="slow down"), TRACES)
    assert explanation.verdict is Verdict.ACCEPTED
    assert "slow down" in _text(explanation)


def test_violations_of_the_body_are_told() -> None:
    answer = ExportResponse(None, 400, violations=("resourceSpans[0]: expected an object",))
    assert "at resourceSpans[0]: expected an object" in _text(explain_response(answer, TRACES))


def test_a_servers_text_cannot_steer_the_terminal() -> None:
    answer = ExportResponse(
        GrpcCode.UNKNOWN, 200, message="\x1b[2J" + "x" * 9999, reason="\x07", violations=("\x08",)
    )
    text = _text(explain_response(answer, TRACES))
    assert text.replace("\n", "").isprintable()
    assert len(text) < 1500


@pytest.mark.parametrize("cause", Cause)
def test_every_way_of_getting_no_answer_is_explained(cause: Cause) -> None:
    explanation = explain_failure(UnreachableError(cause, "library words"), PLAN)
    text = _text(explanation)
    assert explanation.verdict is Verdict.UNREACHABLE
    assert "example.test" in explanation.headline
    assert "library words" in text
    assert explanation.advice
    assert "{" not in text


@pytest.mark.parametrize(
    "cause, advice",
    [
        (Cause.UNKNOWN_CA, "--ca-file"),
        (Cause.NOT_TLS, "http:// instead of https://"),
        (Cause.NEEDS_TLS, "https:// instead of http://"),
        (Cause.NO_HTTP2, "--protocol http"),
        (Cause.ONLY_HTTP1, "--protocol http"),
        (Cause.ONLY_HTTP2, "--protocol grpc"),
        (Cause.REFUSED, "4317"),
        (Cause.NO_ANSWER, "--timeout"),
    ],
)
def test_the_advice_fits_the_cause(cause: Cause, advice: str) -> None:
    assert any(advice in line for line in explain_failure(UnreachableError(cause), PLAN).advice)


def test_no_two_causes_are_told_alike() -> None:
    headlines = [explain_failure(UnreachableError(cause), PLAN).headline for cause in Cause]
    for one, other in itertools.combinations(headlines, 2):
        assert one != other
