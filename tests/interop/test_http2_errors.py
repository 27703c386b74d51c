"""What `docs/h2spec.md` claims of requests that h2spec, which has no key, cannot make."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import HeadersFrame, WindowUpdateFrame

from tests.interop.fleet import AUTHORIZATION, Fleet
from tests.support.clients import Http2Client
from tests.support.exchange import PROTOBUF

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCEPTED = [("content-type", PROTOBUF), ("authorization", AUTHORIZATION)]
AGAIN = b"the connection goes on"


@pytest.mark.parametrize("length", [99, 101])
async def test_an_accepted_body_that_contradicts_its_length_is_reset_and_never_completed(
    fleet: Fleet, length: int
) -> None:
    fleet.forget()
    fleet.sink.aborts_are_faults = False
    fields = [*ACCEPTED, ("content-length", str(length))]
    async with Http2Client(fleet.port) as client:
        stream_id = await client.start("/v1/traces", fields, bytes(100), end=True)
        response = await client.answer(stream_id)
        again = await client.request("/v1/traces", ACCEPTED, AGAIN)
    assert (response.reset, response.status) == (ErrorCodes.PROTOCOL_ERROR, 0)
    assert again.status == 200
    assert [request.body for request in fleet.sink.requests] == [AGAIN]


async def test_a_window_that_overflows_on_an_open_stream_is_a_flow_control_error(
    fleet: Fleet,
) -> None:
    fleet.forget()
    fleet.sink.aborts_are_faults = False
    async with Http2Client(fleet.port) as client:
        stream_id = await client.start("/v1/traces", ACCEPTED, bytes(100))
        frame = WindowUpdateFrame(stream_id, window_increment=2**31 - 1).serialize()
        client.send_raw(frame * 2)
        response = await client.answer(stream_id)
        again = await client.request("/v1/traces", ACCEPTED, AGAIN)
    assert (response.reset, response.status) == (ErrorCodes.FLOW_CONTROL_ERROR, 0)
    assert again.status == 200
    assert [request.body for request in fleet.sink.requests] == [AGAIN]


async def test_a_table_size_update_above_the_default_is_a_compression_error(fleet: Fleet) -> None:
    async with Http2Client(fleet.port) as client:
        await client.request("/livez", [], method="GET")
        # Size update to 4097 (RFC 7541 §6.3) before the static fields :method GET, :path /.
        block = b"\x3f\xe2\x1f\x82\x84\x86"
        frame = HeadersFrame(3, block, flags=["END_HEADERS", "END_STREAM"])
        client.send_raw(frame.serialize())
        await client.until_goaway()
    assert client.goaway == ErrorCodes.COMPRESSION_ERROR
