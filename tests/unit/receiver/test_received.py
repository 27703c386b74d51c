from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.model import Protocol, Signal
from gateway.receiver.received import ReceivedRequest, masked_headers, masked_path

CANARY = "iapikey-canary0123456789"
RECORD = ReceivedRequest(
    time=datetime(2026, 3, 1, 12, 30, 5, 123456, tzinfo=UTC),
    protocol=Protocol.GRPC,
    path="/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    signal=Signal.TRACES,
    services=("shop", "cart"),
    items=3,
    bytes=612,
    encoding="gzip",
    content_type="application/grpc",
    headers={"x-gateway-key-id": "17", "x-gateway-key-name": "laptop", "te": "trailers"},
    sha256="ab" * 32,
    peer="127.0.0.1:5000",
    answer="OK",
)


def test_a_json_line_holds_everything_a_script_needs() -> None:
    assert json.loads(RECORD.to_json()) == {
        "time": "2026-03-01T12:30:05.123Z",
        "protocol": "grpc",
        "path": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "signal": "traces",
        "services": ["shop", "cart"],
        "items": 3,
        "bytes": 612,
        "encoding": "gzip",
        "content_type": "application/grpc",
        "headers": {"x-gateway-key-id": "17", "x-gateway-key-name": "laptop", "te": "trailers"},
        "sha256": "ab" * 32,
        "peer": "127.0.0.1:5000",
        "answer": "OK",
        "error": None,
    }


def test_a_json_line_is_one_line_of_ascii_whatever_the_sender_sent() -> None:
    line = replace(RECORD, services=("a\nb\x1b[31m", "ü")).to_json()
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["services"] == ["a\nb\x1b[31m", "ü"]


def test_a_line_for_people_names_service_signal_items_bytes_and_key() -> None:
    line = RECORD.to_line()
    for part in ("traces", "shop, cart", "3 spans", "612 bytes gzip", "grpc", "key laptop (17)"):
        assert part in line


def test_without_identity_headers_a_line_says_nothing_of_a_key() -> None:
    assert "key" not in replace(RECORD, headers={}).to_line()


def test_a_keys_name_is_decoded_as_the_gateway_encodes_it() -> None:
    record = replace(RECORD, headers={"x-gateway-key-name": "b%C3%BCro 100%25"})
    assert record.key_name == "büro 100%"
    assert "key büro 100%" in record.to_line()


def test_a_line_of_a_request_that_was_not_accepted_says_why_and_who() -> None:
    line = replace(RECORD, answer="INVALID_ARGUMENT", error="the body is not gzip").to_line()
    for part in ("not accepted", "127.0.0.1:5000", "INVALID_ARGUMENT", "the body is not gzip"):
        assert part in line


def test_a_senders_text_cannot_steer_the_terminal() -> None:
    line = replace(RECORD, services=("\x1b[2J",), content_type="\x07", encoding="\x08").to_line()
    assert line.isprintable()
    refused = replace(RECORD, answer="404", error="unknown name \x1b[2J\u202e\n")
    assert refused.to_line().isprintable()


@pytest.mark.parametrize(
    "name, value, scheme",
    [
        ("authorization", f"StackState {CANARY}", "StackState "),
        ("authorization", f"StackState   {CANARY}", "StackState "),
        ("proxy-authorization", f"Basic {CANARY}", "Basic "),
        ("authorization", CANARY, ""),
        ("sts-api-key", CANARY, ""),
        ("x-api-key", CANARY, ""),
        ("cookie", CANARY, ""),
    ],
)
def test_credentials_are_masked_but_can_be_told_apart(name: str, value: str, scheme: str) -> None:
    digest = hashlib.sha256(CANARY.encode()).hexdigest()[:8]
    assert masked_headers([(name, value)]) == {name: f"{scheme}*** (sha256 {digest})"}


def test_repeated_headers_are_joined_and_each_is_masked() -> None:
    headers = [("authorization", f"A {CANARY}"), ("x", "1"), ("authorization", f"B {CANARY}")]
    masked = masked_headers(headers)
    assert CANARY not in str(masked)
    assert masked["authorization"].count("***") == 2
    assert masked["x"] == "1"


def test_a_key_in_the_query_is_masked() -> None:
    path = masked_path(f"/v1/traces?a=1&API_KEY={CANARY}&b=2")
    assert path == "/v1/traces?a=1&API_KEY=***&b=2"
