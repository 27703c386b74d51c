from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.otlp.json_codec import OtlpJsonError, decode, encode, to_object

TRACE_ID = bytes(range(16))
SPAN_ID = bytes(range(8))


def _trace_with(**fields: object) -> bytes:
    """Write a trace whose one span has these JSON fields."""
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}).encode()


def _span(data: bytes) -> Span:
    return decode(ExportTraceServiceRequest, data).resource_spans[0].scope_spans[0].spans[0]


def test_ids_are_written_in_hex_and_other_bytes_in_base64() -> None:
    span = Span(trace_id=TRACE_ID, span_id=SPAN_ID, parent_span_id=SPAN_ID)
    span.attributes.append(KeyValue(key="raw", value=AnyValue(bytes_value=b"\x00\xff")))
    assert to_object(span) == {
        "traceId": "000102030405060708090a0b0c0d0e0f",
        "spanId": "0001020304050607",
        "parentSpanId": "0001020304050607",
        "attributes": [{"key": "raw", "value": {"bytesValue": "AP8="}}],
    }


def test_enums_are_written_as_integers_and_64_bit_numbers_as_strings() -> None:
    span = Span(kind=Span.SPAN_KIND_SERVER, start_time_unix_nano=2**63, flags=7)
    assert to_object(span) == {"kind": 2, "startTimeUnixNano": "9223372036854775808", "flags": 7}


def test_values_of_a_oneof_are_written_even_at_their_default() -> None:
    assert to_object(AnyValue(bool_value=False)) == {"boolValue": False}
    assert to_object(AnyValue(int_value=0)) == {"intValue": "0"}


@pytest.mark.parametrize(
    "number, text", [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")]
)
def test_numbers_that_json_lacks_are_written_and_read_as_strings(number: float, text: str) -> None:
    value = AnyValue(double_value=number)
    assert to_object(value) == {"doubleValue": text}
    assert str(decode(AnyValue, encode(value)).double_value) == str(number)


def test_hex_ids_are_read_in_either_case() -> None:
    span = _span(_trace_with(traceId="AB" * 16, spanId="cd" * 8, parentSpanId=""))
    assert (span.trace_id, span.span_id, span.parent_span_id) == (b"\xab" * 16, b"\xcd" * 8, b"")


def test_integers_are_read_from_numbers_and_from_strings() -> None:
    span = _span(_trace_with(startTimeUnixNano=17, endTimeUnixNano="18", flags="1", kind=3))
    numbers = (span.start_time_unix_nano, span.end_time_unix_nano, span.flags, span.kind)
    assert numbers == (17, 18, 1, 3)


def test_unknown_keys_and_nulls_are_ignored() -> None:
    span = _span(_trace_with(name="a", trace_id="snake", status=None, futureField={"x": [1]}))
    assert span == Span(name="a")


def test_an_empty_object_is_an_empty_request() -> None:
    assert decode(ExportLogsServiceRequest, b"{}") == ExportLogsServiceRequest()


def test_both_forms_of_a_profile_id_are_read() -> None:
    for written in (TRACE_ID.hex(), "AAECAwQFBgcICQoLDA0ODw=="):
        body = {"resourceProfiles": [{"scopeProfiles": [{"profiles": [{"profileId": written}]}]}]}
        request = decode(ExportProfilesServiceRequest, json.dumps(body).encode())
        profile = request.resource_profiles[0].scope_profiles[0].profiles[0]
        assert profile.profile_id == TRACE_ID


_SPAN_PATH = "resourceSpans[0].scopeSpans[0].spans[0]"


@pytest.mark.parametrize(
    "fields, place, problem",
    [
        ({"traceId": "AAECAwQFBgcICQoLDA0ODw=="}, "traceId", "hex, not in base64"),
        ({"traceId": "abcd"}, "traceId", "32 hex digits"),
        ({"spanId": "00 01 02 03 04 05 06 07"}, "spanId", "16 hex digits"),
        ({"spanId": 7}, "spanId", "expected a string, found a number"),
        ({"kind": "SPAN_KIND_SERVER"}, "kind", "never by name"),
        ({"kind": True}, "kind", "as numbers"),
        ({"name": 7}, "name", "expected a string, found a number"),
        ({"startTimeUnixNano": -1}, "startTimeUnixNano", "does not fit"),
        ({"startTimeUnixNano": 1.5}, "startTimeUnixNano", "expected an integer"),
        ({"startTimeUnixNano": "--1"}, "startTimeUnixNano", "does not fit"),
        ({"flags": 2**32}, "flags", "does not fit"),
        ({"attributes": {}}, "attributes", "expected an array, found an object"),
        ({"attributes": [7]}, "attributes[0]", "expected an object, found a number"),
        ({"status": []}, "status", "expected an object, found an array"),
        ({"events": [{"name": None}, None]}, "events[1]", "found null"),
        (
            {"attributes": [{"key": "a", "value": {"boolValue": "true"}}]},
            "attributes[0].value.boolValue",
            "expected true or false, found a string",
        ),
        (
            {"attributes": [{"key": "a", "value": {"bytesValue": "*"}}]},
            "attributes[0].value.bytesValue",
            "base64",
        ),
        (
            {"attributes": [{"key": "a", "value": {"doubleValue": "much"}}]},
            "attributes[0].value.doubleValue",
            "expected a number",
        ),
        ({"name": "\ud800"}, "name", "does not fit"),
    ],
)
def test_a_fault_is_told_with_its_place(fields: dict[str, Any], place: str, problem: str) -> None:
    with pytest.raises(OtlpJsonError) as caught:
        _span(_trace_with(**fields))
    assert caught.value.path == f"{_SPAN_PATH}.{place}"
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    "body, problem",
    [
        (b"", "not JSON"),
        (b"{", "line 1 column"),
        (b"[]", "expected an object, found an array"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"resourceMetrics": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "deeply"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_told(body: bytes, problem: str) -> None:
    with pytest.raises(OtlpJsonError, match=problem):
        decode(ExportMetricsServiceRequest, body)


def test_values_nested_deeper_than_protobuf_allows_are_refused() -> None:
    value: dict[str, Any] = {"arrayValue": {"values": []}}
    for _ in range(200):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(OtlpJsonError, match="deeper than 100"):
        _span(_trace_with(attributes=[{"key": "a", "value": value}]))


_scalars = st.one_of(
    st.text().map(lambda text: AnyValue(string_value=text)),
    st.booleans().map(lambda flag: AnyValue(bool_value=flag)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: AnyValue(int_value=number)),
    st.floats(allow_nan=False).map(lambda number: AnyValue(double_value=number)),
    st.binary().map(lambda data: AnyValue(bytes_value=data)),
)


@given(
    values=st.lists(_scalars),
    ids=st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)),
    kind=st.integers(0, 5),
    start=st.integers(0, 2**64 - 1),
)
def test_what_was_written_comes_back(
    values: list[AnyValue], ids: tuple[bytes, bytes], kind: int, start: int
) -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=ids[0],
            span_id=ids[1],
            kind=kind,
            start_time_unix_nano=start,
        )
    )
    span.attributes.extend(KeyValue(key="a", value=value) for value in values)
    assert decode(ExportTraceServiceRequest, encode(request)) == request


@given(body=st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_refused_never_worse(body: bytes) -> None:
    with contextlib.suppress(OtlpJsonError):
        decode(ExportTraceServiceRequest, body)
