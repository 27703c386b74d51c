"""What the debug receiver makes of the bodies that agents really send."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from gateway import intake
from gateway.model import Protocol, Signal
from gateway.receiver.agents import interpret_agent
from gateway.receiver.exports import Head, HttpResponse
from gateway.receiver.received import ReceivedRequest
from tests.support.intake import SENT, SERIES, deflated, process_message, snappy_block
from tests.support.plane import KEY

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TWO_ENTRIES = b"\x0a\x02ab\x12\x01x\x0a\x00"
"""Fields 1, 2, 1 of a protobuf message."""


def _interpret(
    path: str, body: bytes | None, method: str = "POST", **headers: str
) -> tuple[ReceivedRequest, HttpResponse]:
    row = intake.row_of(path.partition("?")[0])
    assert row is not None
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return interpret_agent(Head("1.1", method, path, fields, "1.2.3.4:5"), row, body, NOW)


@pytest.mark.parametrize("style", ["receiver", "router"])
def test_every_path_is_known_as_any_backend_gets_it(style: intake.PathStyle) -> None:
    rows = {sent.name: intake.row_of(intake.target_of(sent.bare, style)) for sent in SENT}
    known = {name: row and (row.route, row.sender) for name, row in rows.items()}
    assert known == {sent.name: (sent.route, sent.sender) for sent in SENT}


def test_a_path_of_nobody_is_unknown() -> None:
    for path in ("/", "/stsAgent", "/v1/traces", "/api/v2/", "/rbac/..", "/intake/x"):
        assert intake.row_of(path) is None


@pytest.mark.parametrize(
    "name, items, summary",
    [
        ("main forwarder v3, intake", 20, "20 components, 0 relations"),
        ("transactional forwarder", 20, "20 components, 0 relations"),
        ("main forwarder v2, metrics", 30, "30 series"),
        ("process agent, connections", 1, "message of type 22, 3202 bytes"),
        ("process agent, processes", 1, "message of type 12, 3202 bytes"),
        ("curl, health", 0, "0 health"),
        ("RBAC agent, scope", 0, "0 scopes"),
    ],
)
def test_the_record_says_what_a_body_holds(name: str, items: int, summary: str) -> None:
    sent = next(each for each in SENT if each.name == name)
    headers = {key.lower().replace("-", "_"): value for key, value in sent.fields}
    record, answer = _interpret(sent.bare, sent.body, **headers)
    assert (record.items, record.summary, record.error) == (items, summary, "")
    assert (record.protocol, record.signal) == (Protocol.INTAKE, Signal.INTAKE)
    assert record.bytes == len(sent.body)
    assert answer.status == (201 if "rbac" in sent.path else 202)
    assert KEY not in record.to_json() + record.to_line()


def test_snappy_blocks_are_counted_by_their_entries() -> None:
    body = snappy_block(TWO_ENTRIES)
    record, answer = _interpret(
        "/receiver/prometheus/api/v1/write", body, content_type="application/x-protobuf"
    )
    assert (record.items, record.summary, answer.status) == (2, "2 time series", 200)
    record, _ = _interpret("/logs/k8s", body, content_type="application/x-protobuf")
    assert record.summary == "2 log streams"


@pytest.mark.parametrize(
    "path, body, headers, words",
    [
        ("/intake", b"{", {"content_type": "application/json"}, "not JSON"),
        ("/intake", b"[" * 100_000, {"content_type": "application/json"}, "not JSON"),
        ("/intake", b"no zlib", {"content_encoding": "deflate"}, "not deflate"),
        ("/api/v1/connections", b"short", {"content_encoding": "x-zip"}, "header"),
        (
            "/api/v1/connections",
            process_message(b"a" * 99, 22)[:-3],
            {"content_encoding": "x-zip"},
            "zstd",
        ),
        ("/logs/k8s", b"\xff", {"content_type": "application/x-protobuf"}, "snappy"),
        (
            "/logs/k8s",
            snappy_block(TWO_ENTRIES[:-1]),
            {"content_type": "application/x-protobuf"},
            "truncated",
        ),
        (
            "/logs/k8s",
            snappy_block(b"\x08\x01"),
            {"content_type": "application/x-protobuf"},
            "not the protobuf message",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    path: str, body: bytes, headers: dict[str, str], words: str
) -> None:
    record, answer = _interpret(path, body, **headers)
    assert answer.status == 400
    assert words in record.error
    assert words in json.loads(answer.body)["error"]
    assert "not accepted" in record.to_line()


def test_a_wrong_method_and_a_body_too_large_have_their_own_answers() -> None:
    _, answer = _interpret("/features", b"")
    assert answer.status == 405
    assert (b"allow", b"GET") in answer.headers
    _, answer = _interpret("/intake", None)
    assert answer.status == 413


def test_features_and_validate_are_answered_as_agents_expect() -> None:
    _, answer = _interpret("/features?api_key=k", b"", method="GET")
    assert answer.status == 200
    features = json.loads(answer.body)
    assert all(value is True for value in features.values())
    assert "health-states" in features
    record, answer = _interpret(f"/api/v1/validate?api_key={KEY}", b"", method="GET")
    assert answer.status == 200
    assert KEY not in record.to_json()


def test_a_line_for_people_names_path_contents_and_key() -> None:
    record, _ = _interpret(
        "/stsAgent/api/v1/series",
        deflated(SERIES),
        content_type="application/json",
        content_encoding="deflate",
        x_gateway_key_id="7",
        x_gateway_key_name="node%20agents",
    )
    line = record.to_line()
    assert "intake  /stsAgent/api/v1/series  30 series" in line
    assert "key node agents (7)" in line
    assert json.loads(record.to_json())["summary"] == "30 series"
