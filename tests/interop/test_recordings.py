"""What real senders sent, byte for byte at the backend.

Each file of `recordings/` is one request of a real sender (see `recording`). A scripted client
sends it through the gateway; the digest of its body and every header about its encoding must be
the same at the backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.fleet import Fleet
from tests.interop.recording import FOLDER, NUMBERS, Recording, record
from tests.support.certs import Authority
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.decode import batch_of, numbers
from tests.support.exchange import Fields, Request

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECORDINGS = [Recording.read(file) for file in sorted(FOLDER.glob("*.json"))]

ENCODING_FIELDS = (
    "content-type",
    "content-encoding",
    "accept-encoding",
    "grpc-encoding",
    "grpc-accept-encoding",
)

KEPT_FIELDS = (*ENCODING_FIELDS, "user-agent", "authorization", "otlp-profiles-development-version")
"""What the backend must see as the sender sent it (forwarding policy `client`)."""


def about_encoding(fields: Fields) -> Fields:
    return tuple(field for field in fields if field[0] in ENCODING_FIELDS)


def kept(fields: Fields) -> Fields:
    return tuple(field for field in fields if field[0] in KEPT_FIELDS)


async def replay(recording: Recording, fleet: Fleet) -> Response:
    if recording.protocol == "grpc":
        async with Http2Client(fleet.port) as client:
            return await client.request(recording.path, recording.fields, recording.body)
    return await http1_request(fleet.port, recording.path, recording.fields, recording.body)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
async def test_a_recorded_request_arrives_byte_for_byte(fleet: Fleet, recording: Recording) -> None:
    fleet.forget()

    response = await replay(recording, fleet)

    assert (response.status, response.grpc_status or 0) == (200, 0), response
    (request,) = fleet.sink.requests
    assert request.sha256 == hashlib.sha256(recording.body).hexdigest()
    assert request.path == recording.path
    assert sorted(kept(request.fields)) == sorted(kept(recording.fields))
    fleet.check()


@pytest.mark.parametrize(
    "recording",
    [recording for recording in RECORDINGS if recording.protocol == "http"],
    ids=lambda recording: recording.name,
)
async def test_a_recorded_http_request_arrives_byte_for_byte_over_http2(
    fleet: Fleet, authority: Authority, recording: Recording
) -> None:
    """Go's HTTP clients speak HTTP/2 as soon as there is TLS."""
    fleet.forget()
    fields = [field for field in recording.fields if field[0] not in {"connection", "expect"}]

    async with Http2Client(fleet.tls_port, authority.client_context()) as client:
        response = await client.request(recording.path, fields, recording.body)

    assert response.status == 200, response
    (request,) = fleet.sink.requests
    assert request.sha256 == hashlib.sha256(recording.body).hexdigest()
    assert sorted(kept(request.fields)) == sorted(kept(recording.fields))
    fleet.check()


async def test_there_is_a_recording_of_every_sender_protocol_and_compression() -> None:
    """A folder that went missing would make every test above vanish in silence."""
    senders = {recording.name.split("-")[0] for recording in RECORDINGS}
    encodings = {
        recording.protocol: {
            value
            for other in RECORDINGS
            if other.protocol == recording.protocol
            for name, value in other.fields
            if name in {"content-encoding", "grpc-encoding"}
        }
        for recording in RECORDINGS
    }
    assert senders == {"otelcol", "telemetrygen", "python", "curl"}
    assert encodings["grpc"] >= {"gzip", "zstd", "snappy", "deflate"}
    assert encodings["http"] >= {"gzip", "zstd", "snappy", "deflate", "lz4", "zlib"}
    assert {recording.signal for recording in RECORDINGS} == {
        "traces",
        "metrics",
        "logs",
        "profiles",
    }


async def test_the_recordings_are_what_the_pinned_senders_send(
    tool: Callable[[str], Path], curl: Path, tmp_path: Path
) -> None:
    """Ids and times differ from run to run; heads, encodings and numbers do not.

    When this fails after an update of a sender: `python -m tests.interop.recording`, and review
    the difference.
    """
    anew = await record(tool, curl, tmp_path)
    assert sorted(anew) == [recording.name for recording in RECORDINGS]
    for old in RECORDINGS:
        new = anew[old.name]
        assert (new.path, new.protocol) == (old.path, old.protocol)
        assert sorted(name for name, _ in new.fields) == sorted(name for name, _ in old.fields)
        assert sorted(about_encoding(new.fields)) == sorted(about_encoding(old.fields))
        if "telemetrygen" not in old.name:
            assert item_numbers(new) == item_numbers(old) == list(NUMBERS)


def item_numbers(recording: Recording) -> list[int]:
    request = Request(
        http_version="2" if recording.protocol == "grpc" else "1.1",
        method="POST",
        path=recording.path,
        fields=recording.fields,
        body=recording.body,
    )
    return sorted(numbers(batch_of(request)))
