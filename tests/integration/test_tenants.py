"""Keys of several teams before one store with tenants: each request arrives under its key's own
tenant, whatever its sender states.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest

from gateway.channel import LookedUp, Lookup, Up
from gateway.model import BackendName, KeyState, Principal, Tenant, digest_of
from gateway.settings import AuthoritySettings, ForwardSettings
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, Fields, GrpcMessage, Request
from tests.support.plane import RunningWorker, backend, entry, running_worker
from tests.support.polling import until
from tests.support.sink import RawSink
from tests.support.tenant_store import TenantStore

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
A, B, PLAIN = "key-of-team-a", "key-of-team-b", "key-of-nobody"
_JSON: Final = ("content-type", JSON)
_LENGTH: Final = ("Content-Length", "2")
_OVER_HTTP2: Final[dict[str, tuple[str, Fields, bytes]]] = {
    "grpc": (EXPORT, (("content-type", GRPC), ("te", "trailers")), MESSAGE),
    "h2": ("/v1/logs", (_JSON,), b"{}"),
    "intake-h2": ("/intake", (), b"{}"),
}
_OVER_HTTP1: Final[dict[str, tuple[str, Fields]]] = {
    "h1": ("/v1/traces", (_JSON, _LENGTH)),
    "h1-chunked": ("/v1/traces", (_JSON,)),
    "intake": ("/intake", (_LENGTH,)),
    "remote-write": ("/receiver/prometheus/api/v1/write", (_LENGTH,)),
}
WAYS: Final = (*_OVER_HTTP2, *_OVER_HTTP1)
SPELLINGS: Final = (
    ("X-Scope-OrgID", "team-b"),
    ("x-scope-orgid", "team-b"),
    ("X_Scope_OrgID", "team-b"),
    ("x-scope_orgid", "team-b"),
)


def tenant(value: str, name: str = "X-Scope-OrgID") -> Tenant:
    return Tenant(((name, value),))


@asynccontextmanager
async def running(
    sink: RawSink, *, name: str = "X-Scope-OrgID", **changes: Any
) -> AsyncIterator[RunningWorker]:
    """Run a gateway with keys of team a, of team b, and of nobody."""
    setting: dict[str, Any] = {
        "backends": (
            backend(BackendName.OTLP_GRPC, sink.grpc_url),
            backend(BackendName.OTLP_HTTP, sink.http_url),
            backend(BackendName.INTAKE, sink.http_url),
        ),
        "keys": [
            entry(A, "1", tenant=tenant("team-a", name)),
            entry(B, "2", tenant=tenant("team-b", name)),
            entry(PLAIN, "3"),
        ],
        **changes,
    }
    async with running_worker(**setting) as gateway:
        yield gateway


async def send(gateway: RunningWorker, way: str, key: str, fields: Fields = ()) -> Response:
    """Send one request; `fields` are what the sender states."""
    keyed = (("authorization", f"StackState {key}"), *fields)
    if way in _OVER_HTTP2:
        path, more, body = _OVER_HTTP2[way]
        async with Http2Client(gateway.port) as client:
            lower = tuple((name.lower(), value) for name, value in keyed)
            return await client.request(path, (*lower, *more), body)
    path, more = _OVER_HTTP1[way]
    if way == "intake":
        return await http1_request(gateway.port, f"{path}?api_key={key}", (*fields, *more), b"{}")
    return await http1_request(gateway.port, path, (*keyed, *more), b"{}")


def is_ok(answer: Response) -> bool:
    return answer.status == 200 and answer.grpc_status in {0, None}


@pytest.mark.parametrize("key_policy", ["client", "gateway", "none"])
@pytest.mark.parametrize("way", WAYS)
async def test_each_key_s_requests_arrive_under_its_tenant_whatever_the_sender_states(
    way: str, key_policy: Any
) -> None:
    store = TenantStore(["team-a", "team-b"])
    forward = ForwardSettings(
        key_policy, "backend-key", "StackState", identity_headers=True, sender_address=True
    )
    async with RawSink(store) as sink, running(sink, forward=forward) as gateway:
        assert is_ok(await send(gateway, way, A))
        for spelling in SPELLINGS:
            assert is_ok(await send(gateway, way, A, (spelling,)))
            assert is_ok(await send(gateway, way, A, (spelling, spelling, SPELLINGS[0])))
        assert is_ok(await send(gateway, way, B, (("X-Scope-OrgID", "team-a"),)))

    assert {name: len(requests) for name, requests in store.stored.items()} == {
        "team-a": 9,
        "team-b": 1,
    }
    assert store.refused == []
    for request in store.stored["team-a"]:
        assert request.field("x-gateway-key-id") == "1"


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_without_headers_sends_none_and_the_store_refuses_it(way: str) -> None:
    store = TenantStore(["team-a", "team-b"])
    async with RawSink(store) as sink, running(sink) as gateway:
        for fields in ((), *((spelling,) for spelling in SPELLINGS)):
            assert not is_ok(await send(gateway, way, PLAIN, fields))

    assert not store.stored
    assert store.refused == [[]] * 5


@pytest.mark.parametrize("way", WAYS)
async def test_no_sender_states_a_header_that_some_key_has(way: str) -> None:
    """Nobody has listed `X-Team` in `forward.drop_headers`: that a key has it is enough."""
    store = TenantStore(["team-a", "team-b"], "X-Team")
    async with RawSink(store) as sink, running(sink, name="X_Team") as gateway:
        assert not is_ok(await send(gateway, way, PLAIN, (("X-Team", "team-a"),)))
        assert not is_ok(await send(gateway, way, PLAIN, (("x_team", "team-a"),)))
        assert is_ok(await send(gateway, way, A, (("x-team", "team-b"),)))

    assert list(store.stored) == ["team-a"]
    assert store.refused == [[], []]


async def test_a_key_may_have_several_headers_and_they_arrive_as_they_are() -> None:
    pairs = (("X-A", "one two"), ("X-B", "~!=:;,"))
    async with (
        RawSink() as sink,
        running(sink, keys=[entry(A, "1", tenant=Tenant(pairs))]) as gateway,
    ):
        for way in WAYS:
            assert is_ok(await send(gateway, way, A, (("X-Other", "mine"), ("x-b", "forged"))))
        for request in sink.requests:
            values = {name: request.values(name) for name in ("x-a", "x-b", "x-other")}
            assert values == {"x-a": ["one two"], "x-b": ["~!=:;,"], "x-other": ["mine"]}
        assert len(sink.requests) == len(WAYS)


async def test_a_change_of_headers_is_in_force_on_open_connections() -> None:
    """Both HTTP versions know again what a connection has sent before; nothing is dropped at first:
    the settings name no header.
    """
    fields = (("x-scope-orgid", "stated"), ("content-type", JSON))
    sent: list[Request] = []

    def teams() -> list[list[str]]:
        new, sent[:] = sink.requests[len(sent) :], sink.requests
        return [request.values("x-scope-orgid") for request in new]

    async with (
        RawSink() as sink,
        running(sink, keys=[entry(A, "1"), entry(PLAIN, "3")]) as gateway,
        Http2Client(gateway.port) as http2,
        aiohttp.ClientSession() as http1,
    ):

        async def send_all() -> list[list[str]]:
            for key in (A, PLAIN):
                keyed = (("authorization", f"StackState {key}"), *fields)
                for _ in range(3):
                    assert is_ok(await http2.request("/v1/traces", keyed, b"{}"))
                    url = f"http://{gateway.address}/v1/traces"
                    async with http1.post(url, data=b"{}", headers=dict(keyed)) as answer:
                        assert answer.status == 200
            return teams()

        assert await send_all() == [["stated"]] * 12
        changed = [entry(A, "1", tenant=tenant("a", "X-Scope-OrgID"))]
        gateway.path.keyring.apply(changed, [], gateway.path.keyring.revision + 1)
        assert await send_all() == [["a"]] * 6 + [[]] * 6
        changed = [entry(A, "1", tenant=tenant("b", "X-Scope-OrgID"))]
        gateway.path.keyring.apply(changed, [], gateway.path.keyring.revision + 1)
        assert await send_all() == [["b"]] * 6 + [[]] * 6
        gateway.path.keyring.apply([entry(A, "1")], [], gateway.path.keyring.revision + 1)
        assert await send_all() == [[]] * 12


async def test_a_refused_key_of_a_tenant_reaches_no_store() -> None:
    store = TenantStore(["team-a"])
    keys = [entry(A, "1", state=KeyState.DISABLED, tenant=tenant("team-a"))]
    async with RawSink(store) as sink, running(sink, keys=keys) as gateway:
        for way in WAYS:
            assert not is_ok(await send(gateway, way, A))
    assert not store.stored
    assert not store.refused


@pytest.mark.parametrize("way", ["grpc", "h1"])
async def test_a_request_that_waited_for_its_verdict_states_no_header_either(way: str) -> None:
    """While an authority is asked, the key gets headers: its waiting request was read before."""
    store = TenantStore(["team-a"], "X-Team")
    settings = AuthoritySettings(cache_size=10, negative_cache_size=10, wait_s=6.0)
    asked: list[Lookup] = []

    def take(message: Up) -> bool:
        assert isinstance(message, Lookup)
        asked.append(message)
        return True

    async with RawSink(store) as sink, running(sink, keys=[], authority=settings) as gateway:
        gateway.send_to(take)

        async def decide() -> None:
            await until(lambda: bool(asked), "a look-up")
            keyring = gateway.path.keyring
            known = entry(A, "1", tenant=tenant("team-a", "X-Team"))
            keyring.apply([known], [], keyring.revision + 1)
            allowed = LookedUp(
                digest_of(A.encode()), "allowed", Principal("x"), "authority", 9.0, 9.0
            )
            gateway.worker.take_verdict(allowed)

        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(send(gateway, way, A, (("X-Team", "team-b"),)))
            tasks.create_task(decide())
        assert is_ok(sending.result())
    assert list(store.stored) == ["team-a"]
