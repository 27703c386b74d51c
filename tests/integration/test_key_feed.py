"""Gateways that follow the keys of a central gateway, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import pytest

from gateway.control.grpc_api import feed_log
from gateway.control.grpc_api.key_feed import SERVICE
from gateway.ext_authz import decisions
from gateway.keys.errors import (
    StoreDamagedError,
    StoreDeniedError,
    StoreForeignError,
    StoreUnavailableError,
)
from gateway.keys.following import follower
from gateway.keys.record import StaticKey
from gateway.keys.store import KeySpec, KeyUpdate
from gateway.keys.stores import gateway_stream
from gateway.keys.stores.gateway_channel import FeedTls
from gateway.keys.stores.sqlite import sqlite_store
from gateway.keys.tenancy import tenancy
from gateway.model import KeyLimits, KeyState, Signal, digest_of
from gateway.protos.envoy.service.auth.v3 import external_auth_pb2 as auth
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb
from tests.support.certs import Authority
from tests.support.key_feed import TOKEN, Center, running_center, store_at
from tests.support.keys import Workers, running_keys
from tests.support.network import network_to
from tests.support.process import free_ports

NO_AUTHORITY = "http://127.0.0.1:1/authorize"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.05)


async def _create(center: Workers, name: str = "agent", **spec: Any) -> tuple[bytes, int]:
    issued = await center.keys.commands.create(KeySpec(name, **spec))
    return issued.record.digest, issued.record.id


async def test_an_edge_has_the_keys_of_the_center_and_each_change(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        before, _ = await _create(center.workers)
        async with running_keys([center.store()]) as edge:
            assert edge.accepts(before)
            assert edge.complete
            later, key_id = await _create(center.workers)
            await edge.until(lambda: edge.accepts(later))
            await center.keys.commands.update(key_id, KeyUpdate(enabled=False))
            await edge.until(lambda: edge.keyring[later].state == KeyState.DISABLED)
            await center.keys.commands.delete(key_id)
            await edge.until(lambda: edge.keyring[later].state == KeyState.REVOKED)
            assert edge.accepts(before)


async def test_what_is_known_of_a_key_is_known_at_the_edge(tmp_path: Path) -> None:
    limits = KeyLimits(requests=5, concurrent=0, bytes_per_month=10**12)
    whose = tenancy("team-a", {"team": "a"}, {"X-Scope-OrgID": "team-a"})
    signals = frozenset({Signal.LOGS, Signal.INTAKE})
    async with running_center(tmp_path / "center") as center:
        digest, key_id = await _create(
            center.workers,
            "agent é €",
            expires_at_ms=2_000_000_000_000,
            signals=signals,
            limits=limits,
            tenancy=whose,
        )
        plain, _ = await _create(center.workers, "plain")
        async with running_keys([center.store()]) as edge:
            known, at_center = edge.keys.stored(digest), center.keys.stored(digest)
            assert known is not None
            assert at_center is not None
            for name in ("id", "name", "created_ms", "updated_ms", "expires_at_ms", "enabled"):
                assert getattr(known, name) == getattr(at_center, name)
            assert (known.id, known.signals, known.limits) == (key_id, signals, limits)
            assert known.tenancy == whose
            other = edge.keys.stored(plain)
            assert other is not None
            assert (other.signals, other.limits, other.expires_at_ms) == (None, None, None)
            assert other.tenancy is None


async def test_a_wrong_token_or_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        for token in (None, "wrong"):
            store = center.store(token=token)
            with pytest.raises(StoreDeniedError, match=r"set keys\.feed\.token"):
                await store.feed.open(create=False)
            await store.feed.close()


async def test_an_address_that_is_no_feed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        store = center.store()
        method = "gateway.keys.v1.KeyFeed/Other"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.keys.stores.gateway_feed._METHOD", f"/{method}")
            with pytest.raises(StoreForeignError, match=r"no admin\.grpc_address"):
                await store.feed.open(create=False)
        await store.feed.close()


async def test_over_tls_a_client_certificate_is_enough_and_demanded(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = authority.issue("server", ["127.0.0.1"])
    client = authority.issue("edge")
    tls = {
        "cert_file": str(server.cert_file),
        "key_file": str(server.key_file),
        "client_ca_file": str(authority.cert_file),
    }
    own = FeedTls(authority.cert_file, client.cert_file, client.key_file)
    async with running_center(tmp_path / "center", admin={"grpc_tls": tls}) as center:
        digest, _ = await _create(center.workers)
        async with running_keys([center.store(token=None, tls=own)]) as edge:
            assert edge.accepts(digest)
        for wrong in (
            FeedTls(authority.cert_file),
            FeedTls(None, client.cert_file, client.key_file),
        ):
            store = center.store(tls=wrong)
            with pytest.raises(StoreUnavailableError):
                await store.feed.open(create=False)
            await store.feed.close()


async def test_known_keys_outlive_the_center_and_unknown_ones_are_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    options = {"state_dir": tmp_path / "edge"}
    async with running_center(tmp_path / "center", port=port) as center:
        digest, key_id = await _create(center.workers)
        async with running_keys([store_at(port)], **options) as edge:
            await edge.until(lambda: bool(list((tmp_path / "edge").glob("*.snapshot"))))
            await center.grpc.close()
            await edge.until(lambda: not edge.complete)
            assert edge.accepts(digest)
        async with running_keys([store_at(port)], **options) as edge:
            assert edge.accepts(digest)
            assert not edge.complete
            await center.keys.commands.delete(key_id)
            monkeypatch.undo()
            async with running_center(
                tmp_path / "again", port=port, stores=[sqlite_store(tmp_path / "center/keys.db")]
            ):
                await edge.until(lambda: not edge.accepts(digest))
                await edge.until(lambda: edge.complete)
                assert edge.keyring[digest].state == KeyState.REVOKED


async def test_an_edge_without_a_snapshot_waits_for_the_center(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running_keys([store_at(port)], state_dir=tmp_path / "edge") as edge:
        assert not edge.complete
        assert not edge.keys.is_loaded
        async with running_center(tmp_path / "center", port=port) as center:
            digest, _ = await _create(center.workers)
            await edge.until(lambda: edge.accepts(digest))
            await edge.until(lambda: edge.complete)


async def test_after_a_break_only_what_changed_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_stream, "OVERDUE_S", 1.5)
    async with (
        running_center(tmp_path / "center") as center,
        network_to(center.port) as network,
    ):
        kept, _ = await _create(center.workers)
        gone, key_id = await _create(center.workers)
        async with running_keys([center.store(port=network.entrance)]) as edge:
            revision = edge.keys.revision
            network.cut()
            await edge.until(lambda: not edge.complete)
            await center.keys.commands.delete(key_id)
            assert edge.accepts(gone)
            network.mend()
            await edge.until(lambda: not edge.accepts(gone))
            await edge.until(lambda: edge.complete)
            assert edge.accepts(kept)
            # Completeness twice, and one key: nothing was read anew.
            assert edge.keys.revision == revision + 3


async def test_who_is_too_far_behind_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_stream, "OVERDUE_S", 1.5)
    monkeypatch.setattr(feed_log.FeedLog.__init__, "__defaults__", (3,))
    async with (
        running_center(tmp_path / "center") as center,
        network_to(center.port) as network,
    ):
        gone, key_id = await _create(center.workers)
        async with running_keys([center.store(port=network.entrance)]) as edge:
            network.cut()
            await edge.until(lambda: not edge.complete)
            await center.keys.commands.delete(key_id)
            created = [(await _create(center.workers))[0] for _ in range(10)]
            network.mend()
            await edge.until(lambda: edge.complete)
            assert not edge.accepts(gone)
            assert all(edge.accepts(digest) for digest in created)


async def test_a_center_started_anew_has_nothing_told_again(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running_center(tmp_path / "center", port=port) as center:
        kept, _ = await _create(center.workers)
        edge_keys = running_keys([store_at(port)])
        edge = await edge_keys.__aenter__()
    try:
        await edge.until(lambda: not edge.complete)
        revision = edge.keys.revision
        async with running_center(tmp_path / "center", port=port):
            await edge.until(lambda: edge.complete)
            assert edge.accepts(kept)
            assert edge.keys.revision == revision + 1
    finally:
        await edge_keys.__aexit__(None, None, None)


async def test_a_center_restored_from_an_older_backup_decides(tmp_path: Path) -> None:
    """Keys made after the backup are gone, one that was deleted since is back."""
    (port,) = free_ports(1)
    folder = tmp_path / "center"
    async with running_center(folder, port=port) as center:
        old, old_id = await _create(center.workers)
    backup = (folder / "keys.db").read_bytes()
    edge_keys = running_keys([store_at(port)])
    async with running_center(folder, port=port) as center:
        new, _ = await _create(center.workers)
        edge = await edge_keys.__aenter__()
        await center.keys.commands.delete(old_id)
        await edge.until(lambda: not edge.accepts(old))
    try:
        (folder / "keys.db").write_bytes(backup)
        async with running_center(folder, port=port):
            await edge.until(lambda: edge.complete)
            assert edge.accepts(old)
            assert new not in edge.keyring
    finally:
        await edge_keys.__aexit__(None, None, None)


async def test_another_center_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options = {"state_dir": tmp_path / "edge"}
    async with (
        running_center(tmp_path / "center", port=port) as center,
    ):
        digest, _ = await _create(center.workers)
        async with running_keys([store_at(port)], **options) as edge:
            await edge.until(lambda: bool(list((tmp_path / "edge").glob("*.snapshot"))))
    async with (
        running_center(tmp_path / "another", port=port),
        running_keys([store_at(port)], **options) as edge,
    ):
        assert edge.accepts(digest)
        assert not edge.complete
        assert "another key store than before" in str(edge.keys.statuses()[0].error)


async def test_what_the_center_cannot_tell_is_undecided_at_the_edge(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center", authority=NO_AUTHORITY) as center:
        digest, _ = await _create(center.workers)
        async with running_keys([center.store()]) as edge:
            assert edge.accepts(digest)
            await edge.until(lambda: not edge.complete)
            assert edge.keys.statuses()[0].cut_off


async def test_a_center_that_is_cut_off_from_its_own_center_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it no longer decides on is undecided at its edges: never refused, not for a moment."""
    monkeypatch.setattr("gateway.keys.following.staleness.AGE_S", 0.05)
    async with running_center(tmp_path / "center") as center:
        digest, _ = await _create(center.workers)
        middle_stores = [center.store()]
        async with (
            running_center(tmp_path / "middle", stores=middle_stores, max_stale_s=0.3) as middle,
            running_keys([middle.store()]) as edge,
        ):
            assert edge.accepts(digest)
            assert edge.complete
            wrong: list[object] = []
            keyring, is_complete = set(edge.keyring), edge.complete

            def judge(delta: Any) -> None:
                nonlocal is_complete
                is_complete = delta.complete
                keyring.difference_update(delta.removals)
                if digest not in keyring and is_complete:
                    wrong.append(delta)  # it would be refused

            edge.keys.subscribe(judge)
            await center.grpc.close()
            await edge.until(lambda: digest not in edge.keyring)
            assert wrong == []


async def test_static_keys_are_not_sent(tmp_path: Path) -> None:
    static = [StaticKey("receiver", digest_of(b"static"))]
    async with running_center(tmp_path / "center", static=static) as center:
        digest, _ = await _create(center.workers)
        async with running_keys([center.store()]) as edge:
            assert set(edge.keyring) == {digest}


async def test_a_deletion_while_everything_is_read_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.grpc_api.key_feed.PART", 1)
    async with running_center(tmp_path / "center") as center:
        created = [await _create(center.workers) for _ in range(60)]
        async with (
            running_keys([center.store()]) as edge,
        ):
            deleted = created[::2]
            await asyncio.gather(*(center.keys.commands.delete(key_id) for _, key_id in deleted))
            await edge.until(lambda: not any(edge.accepts(digest) for digest, _ in deleted))
            assert all(edge.accepts(digest) for digest, _ in created[1::2])


async def test_the_token_is_in_no_error_and_no_repr() -> None:
    store = store_at(free_ports(1)[0])
    with pytest.raises(StoreUnavailableError) as failure:
        await store.feed.open(create=False)
    await store.feed.close()
    assert TOKEN not in str(failure.value) + repr(store) + repr(store.feed)


class _Scripted:
    """A center that sends what a test wants."""

    def __init__(self, *messages: pb.FollowResponse | bytes) -> None:
        self._messages = messages
        self._server = grpc.aio.server()
        self.port = 0

    async def __aenter__(self) -> Self:
        handler: grpc.RpcMethodHandler[bytes, bytes]
        handler = grpc.unary_stream_rpc_method_handler(self._follow)
        service = grpc.method_handlers_generic_handler(SERVICE, {"Follow": handler})
        self._server.add_generic_rpc_handlers((service,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _follow(self, _: bytes, __: Any) -> AsyncIterator[bytes]:
        for message in self._messages:
            yield message if isinstance(message, bytes) else message.SerializeToString()
        await asyncio.Event().wait()


BEGINNING = pb.FollowResponse(complete=True, beginning=pb.Beginning(history="h", heartbeat_ms=1000))
GOOD = pb.Key(digest=b"d" * 32, id=1, name="n\x1b[31m")


def _part(*keys: pb.Key) -> pb.FollowResponse:
    return pb.FollowResponse(complete=True, snapshot_part=pb.SnapshotPart(keys=keys, last=True))


def _gone(*digests: bytes) -> pb.FollowResponse:
    return pb.FollowResponse(complete=True, position=1, changes=pb.Changes(gone=digests))


@pytest.mark.parametrize(
    "message",
    [
        _part(GOOD, pb.Key(digest=b"short", id=2)),
        _part(GOOD, pb.Key(digest=b"e" * 32)),
        _part(GOOD, pb.Key(digest=b"e" * 32, id=2**60)),
        _part(GOOD, pb.Key(digest=b"e" * 32, id=2, created_ms=2**60)),
        _part(GOOD, pb.Key(digest=b"e" * 32, id=2, limits=pb.Limits(requests=2**60))),
        _part(GOOD, pb.Key(digest=b"e" * 32, id=2, headers={"X-T": "a\r\nX-Other: b"})),
        _part(GOOD, pb.Key(digest=b"e" * 32, id=2, labels={"": "a"})),
        _gone(b"short"),
        b"\xff\xff\xff",
    ],
)
async def test_a_damaged_feed_changes_nothing(
    message: pb.FollowResponse | bytes, tmp_path: Path
) -> None:
    options = {"state_dir": tmp_path / "edge"}
    (port,) = free_ports(1)
    async with running_center(tmp_path / "center", port=port) as center:
        digest, _ = await _create(center.workers)
        async with running_keys([store_at(port)], **options) as edge:
            await edge.until(lambda: bool(list((tmp_path / "edge").glob("*.snapshot"))))
    async with _Scripted(BEGINNING, message) as scripted:
        with pytest.MonkeyPatch.context() as patch:
            location = f"gateway+grpc://127.0.0.1:{port}"
            store = store_at(scripted.port)
            patch.setattr(store.feed, "location", location)
            async with running_keys([store], **options) as edge:
                await edge.until(lambda: edge.keys.statuses()[0].errors != {})
                assert edge.accepts(digest)
                assert not edge.complete
                assert str(edge.keys.statuses()[0].error).isprintable()


async def test_a_feed_that_does_not_begin_as_it_should_is_not_used() -> None:
    async with _Scripted(_part(GOOD)) as scripted:
        store = store_at(scripted.port)
        with pytest.raises(StoreDamagedError, match="does not begin as it should"):
            await store.feed.open(create=False)
        await store.feed.close()


async def test_what_cannot_be_printed_is_in_no_name() -> None:
    async with (
        _Scripted(BEGINNING, _part(GOOD)) as scripted,
        running_keys([store_at(scripted.port)]) as edge,
    ):
        known = edge.keys.stored(b"d" * 32)
        assert known is not None
        assert known.name == "n?[31m"


async def _check(center: Center, request: auth.CheckRequest) -> auth.CheckResponse:
    async with grpc.aio.insecure_channel(center.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[auth.CheckRequest, auth.CheckResponse]
        call = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=auth.CheckRequest.SerializeToString,
            response_deserializer=auth.CheckResponse.FromString,
        )
        return await call(request)


async def test_a_bug_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks about it is told to try again."""
    monkeypatch.setattr(decisions.Decider, "_find_verdict", None)
    async with running_center(tmp_path / "center") as center:
        request = auth.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path, http.protocol = "POST", "/v1/logs", "HTTP/2"
        answer = await _check(center, request)
        assert answer.denied_response.status.code == 503
        assert "INTERNAL" in answer.denied_response.body


async def test_what_is_no_http_request_is_refused(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        answer = await _check(center, auth.CheckRequest())
        assert answer.status.code == 12
        assert answer.denied_response.status.code == 404
