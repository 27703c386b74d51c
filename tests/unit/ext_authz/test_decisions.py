"""Decisions for another proxy, head by head; what senders are told is compared in integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config import worker_settings
from gateway.ext_authz.answers import Refused, refused
from gateway.ext_authz.decisions import Decider, Decision
from gateway.ext_authz.heads import ForeignHead
from gateway.model import KeyLimits, Principal, Signal, Tenant, digest_of
from gateway.wire.status import status_protobuf
from tests.support.config import config_from

KEY = "a-key"
LOGS = b"/v1/logs"
EXPORT = b"/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PROTOBUF = (b"content-type", b"application/x-protobuf")
GRPC = (b"content-type", b"application/grpc")


class _Keys:
    def __init__(self, *principals: Principal, complete: bool = True) -> None:
        self._known = {digest_of(KEY.encode()): each for each in principals}
        self.is_complete = complete
        self.tenant_headers: set[bytes] = set()

    def principal(self, digest: bytes) -> Principal | None:
        return {bytes(known): whose for known, whose in self._known.items()}.get(digest)


class _World:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def decider(self, keys: _Keys, **tree: object) -> Decider:
        settings = worker_settings(config_from(self._folder, tree), 0, 1, [], -1, 0)
        return Decider(settings, keys)

    async def decide(
        self,
        *fields: tuple[bytes, bytes],
        target: bytes = LOGS,
        is_http2: bool = True,
        keys: _Keys | None = None,
        **tree: object,
    ) -> Decision:
        keys = keys or _Keys(Principal("7", name="agent"))
        head = ForeignHead(b"POST", target, is_http2, fields)
        return await self.decider(keys, **tree).decide(head)


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> _World:
    return _World(tmp_path)


def _right(key: str = KEY) -> tuple[bytes, bytes]:
    return b"authorization", f"StackState {key}".encode()


def _reason(decision: Decision) -> str:
    return decision.refusal.reason if decision.refusal is not None else "allowed"


async def test_a_good_key_is_allowed_and_named(world: _World) -> None:
    decision = await world.decide(_right(), PROTOBUF)
    assert _reason(decision) == "allowed"
    assert dict(decision.set) == {"x-gateway-key-id": "7", "x-gateway-key-name": "agent"}
    assert (decision.protocol, decision.signal) == ("http", "logs")


async def test_a_key_s_headers_take_the_place_of_the_callers_in_every_spelling(
    world: _World,
) -> None:
    whose = Principal("7", name="agent", tenant=Tenant((("X-Tenant", "a"),), ()))
    callers = ((b"x-tenant", b"b"), (b"x_tenant", b"c"), (b"x-other", b"d"))
    decision = await world.decide(_right(), PROTOBUF, *callers, keys=_Keys(whose))
    assert dict(decision.set)["x-tenant"] == "a"
    assert "x_tenant" in decision.remove
    assert not {"x-tenant", "x-other"} & set(decision.remove)


async def test_the_signal_is_that_of_the_path(world: _World) -> None:
    keys = _Keys(Principal("7", signals=Signal.LOGS.bit))
    assert _reason(await world.decide(_right(), PROTOBUF, keys=keys)) == "allowed"
    traces = await world.decide(_right(), PROTOBUF, keys=keys, target=b"/v1/traces")
    assert _reason(traces) == "SIGNAL_NOT_ALLOWED"
    grpc = await world.decide(_right(), GRPC, keys=keys, target=EXPORT)
    assert (_reason(grpc), grpc.protocol) == ("allowed", "grpc")


async def test_a_key_that_nobody_can_tell_of_is_undecided(world: _World) -> None:
    decision = await world.decide(_right(), PROTOBUF, keys=_Keys(complete=False))
    assert _reason(decision) == "UNDECIDED"
    answer = refused(decision)
    assert (answer.http_status, dict(answer.fields)["retry-after"]) == (503, "2")


async def test_grpc_needs_http2_here_too(world: _World) -> None:
    decision = await world.decide(_right(), GRPC, target=EXPORT, is_http2=False)
    assert _reason(decision) == "GRPC_NEEDS_HTTP2"


@pytest.mark.parametrize(
    "value, reason",
    [
        ("StackState a-key,StackState a-key", "AUTHORIZATION_REPEATED"),
        ("StackState a-key, Bearer other", "AUTHORIZATION_REPEATED"),
        ("StackState a-key,", "KEY_UNKNOWN"),
        ("StackState a,key", "KEY_UNKNOWN"),
        ("StackState a-key, other", "KEY_CHARACTERS"),
    ],
)
async def test_fields_that_a_proxy_has_joined_are_told_apart(
    world: _World, value: str, reason: str
) -> None:
    decision = await world.decide((b"authorization", value.encode()), PROTOBUF)
    assert _reason(decision) == reason


async def test_a_declared_length_beyond_the_limit_is_refused(world: _World) -> None:
    limits = {"max_body": "1KiB"}
    for length, reason in ((b"1024", "allowed"), (b"1025", "BODY_TOO_LARGE")):
        fields = (_right(), PROTOBUF, (b"content-length", length))
        assert _reason(await world.decide(*fields, limits=limits)) == reason


async def test_identities_of_the_callers_are_removed_in_every_spelling(world: _World) -> None:
    forged = [(b"x_gateway_key_id", b"1"), (b"x-gateway-key-name", b"root"), (b"tenant_id", b"a")]
    decision = await world.decide(
        _right(), PROTOBUF, *forged, forward={"drop_headers": ["Tenant-ID"], "key": "none"}
    )
    assert decision.remove == ["tenant_id", "x_gateway_key_id", "authorization"]
    assert "x-gateway-key-name" in dict(decision.set)


async def test_the_key_goes_where_forward_key_says(world: _World) -> None:
    own = {"key": "gateway", "gateway_key": "own"}
    query = b"/receiver/stsAgent/intake?api_key=a-key"
    otlp = await world.decide(_right(), PROTOBUF, forward=own)
    assert dict(otlp.set)["authorization"] == "StackState own"
    assert "authorization" not in otlp.remove
    intake = await world.decide(target=query, forward=own)
    assert dict(intake.set)["sts-api-key"] == "own"
    assert intake.removes_query_key


async def test_a_body_that_is_no_text_is_sent_as_json(world: _World) -> None:
    """A message of more than 127 bytes has a length that is no text."""
    encoded = b"authorization", b"StackState%20a-key"
    answer: Refused = refused(await world.decide(encoded, PROTOBUF))
    reason = "KEY_PERCENT_ENCODED"
    assert json.loads(answer.body)["details"][0]["reason"] == reason
    assert dict(answer.fields)["content-type"] == "application/json"
    with pytest.raises(UnicodeDecodeError):
        status_protobuf(16, answer.text, reason, "otlp-gateway", 0).decode()


async def test_no_field_frames_the_answer(world: _World) -> None:
    for fields, target in (((PROTOBUF,), LOGS), ((GRPC,), EXPORT)):
        answer = refused(await world.decide(*fields, target=target))
        assert "content-length" not in dict(answer.fields)


async def test_headers_that_other_keys_have_are_removed_for_all(world: _World) -> None:
    keys = _Keys(Principal("7", name="agent"))
    keys.tenant_headers = {b"x-tenant"}
    callers = ((b"x-tenant", b"b"), (b"x_tenant", b"c"), (b"x-other", b"d"))
    decision = await world.decide(_right(), PROTOBUF, *callers, keys=keys)
    assert _reason(decision) == "allowed"
    assert sorted(decision.remove) == ["x-tenant", "x_tenant"]


@pytest.mark.parametrize(
    "default, own, declared, allowed",
    [
        ({"requests": "3/s"}, None, None, 3),
        ({"requests": "3/s"}, KeyLimits(2), None, 2),
        ({"requests": "3/s"}, KeyLimits(0), None, 9),
        ({"bytes": "100B/s"}, None, 40, 3),
        ({}, KeyLimits(None, 100), 60, 2),
        ({"bytes": "100B/s"}, None, None, 9),
        ({"concurrent": 1}, KeyLimits(None, None, 1), None, 9),
    ],
)
async def test_requests_and_declared_bytes_count_against_the_keys_limits(
    world: _World,
    default: dict[str, int],
    own: KeyLimits | None,
    declared: int | None,
    allowed: int,
) -> None:
    keys = _Keys(Principal("7", limits=own))
    decider = world.decider(keys, limits={"per_key": default})
    fields = [_right(), PROTOBUF]
    if declared is not None:
        fields.append((b"content-length", str(declared).encode()))
    head = ForeignHead(b"POST", LOGS, is_http2=True, fields=fields)
    decisions = [await decider.decide(head) for _ in range(9)]
    reasons = [_reason(each) for each in decisions]
    assert reasons == ["allowed"] * allowed + ["QUOTA"] * (9 - allowed)
    for each in decisions[allowed:]:
        assert each.outcome == "allowed"
        answer = refused(each)
        assert answer.http_status == 429
        assert "retry-after" in dict(answer.fields)
