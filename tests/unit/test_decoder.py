"""What the decoder says of samples, good and bad; and its process, on pipes of memory."""

from __future__ import annotations

import io
import json

import msgspec
import pytest

from gateway.decoder.__main__ import serve
from gateway.decoder.counting import count
from gateway.otlp import json_codec
from gateway.otlp.encodings import compress
from gateway.otlp.framing import frame
from gateway.samples import Counted, Sample, SampleResult
from tests.support.bodies import SIGNALS

PROTOBUF = "application/x-protobuf"
TRACES = SIGNALS["traces"].make(range(12))


def _sample(body: bytes, **members: object) -> Sample:
    plain = Sample("traces", is_grpc=False, content_type=PROTOBUF, encoding="", body=body)
    return msgspec.structs.replace(plain, **members)


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
@pytest.mark.parametrize("encoding", ["none", "gzip", "deflate", "zstd", "snappy", "lz4"])
def test_items_are_counted_in_each_encoding(signal: str, encoding: str) -> None:
    message = SIGNALS[signal].make(range(7)).SerializeToString()
    name = "" if encoding == "none" else encoding
    http = _sample(compress(encoding, message, "http"), signal=signal, encoding=name)
    framed = frame(compress(encoding, message, "grpc"), is_compressed=bool(name))
    grpc = _sample(
        framed, signal=signal, encoding=name, is_grpc=True, content_type="application/grpc+proto"
    )

    assert count(http) == count(grpc) == Counted(SampleResult.COUNTED, 7)


def test_json_is_counted_whatever_follows_its_media_type() -> None:
    body = json_codec.encode(TRACES)

    assert count(_sample(body, content_type="Application/JSON; charset=utf-8")) == Counted(
        SampleResult.COUNTED, 12
    )


@pytest.mark.parametrize(
    "sample, result",
    [
        (_sample(b"\xff\xff"), SampleResult.DAMAGED),
        (_sample(b"{", content_type="application/json"), SampleResult.DAMAGED),
        (_sample(b"[" * 500_000, content_type="application/json"), SampleResult.DAMAGED),
        (_sample(b"\xff", content_type="application/json"), SampleResult.DAMAGED),
        (_sample(b"no gzip", encoding="gzip"), SampleResult.DAMAGED),
        (_sample(compress("gzip", bytes(99), "http")[:-9], encoding="gzip"), SampleResult.DAMAGED),
        (_sample(b"\0\0\0\0\x09abc", is_grpc=True), SampleResult.DAMAGED),
        (_sample(b"", is_grpc=True), SampleResult.DAMAGED),
        (_sample(frame(b"x", is_compressed=True), is_grpc=True), SampleResult.DAMAGED),
        (_sample(b"x", encoding="br"), SampleResult.UNSUPPORTED),
        (_sample(b"x", content_type="text/plain"), SampleResult.UNSUPPORTED),
        (_sample(b"x", content_type=""), SampleResult.UNSUPPORTED),
        (
            _sample(frame(b"{}"), is_grpc=True, content_type="application/grpc+json"),
            SampleResult.UNSUPPORTED,
        ),
        (
            _sample(compress("gzip", bytes(20_000_000), "http"), encoding="gzip"),
            SampleResult.TOO_LARGE,
        ),
        (
            _sample(compress("zstd", bytes(1_000_000), "http"), encoding="zstd"),
            SampleResult.TOO_LARGE,
        ),
    ],
)
def test_what_cannot_be_counted_is_said(sample: Sample, result: SampleResult) -> None:
    assert count(sample) == Counted(result)


def test_telemetry_that_compresses_well_is_counted() -> None:
    message = SIGNALS["logs"].make(range(20_000)).SerializeToString()
    packed = compress("gzip", message, "http")
    assert len(message) > 10 * len(packed)

    counted = count(_sample(packed, signal="logs", encoding="gzip"))

    assert counted == Counted(SampleResult.COUNTED, 20_000)


def test_samples_are_answered_in_turn_until_the_input_ends() -> None:
    samples = [_sample(TRACES.SerializeToString()), _sample(b"\xff")]
    payloads = [msgspec.msgpack.encode(sample) for sample in samples]
    requests = io.BytesIO(b"".join(len(each).to_bytes(4, "big") + each for each in payloads))
    answers = io.BytesIO()

    serve(requests, answers)

    answers.seek(0)
    decoded = []
    while head := answers.read(4):
        payload = answers.read(int.from_bytes(head, "big"))
        decoded.append(msgspec.msgpack.decode(payload, type=Counted))
    assert decoded == [Counted(SampleResult.COUNTED, 12), Counted(SampleResult.DAMAGED)]


def test_a_sample_is_printed_without_its_body() -> None:
    assert "secret" not in repr(_sample(json.dumps({"a": "secret"}).encode()))
