"""Keys in a YAML file or a folder, as they are written while a gateway runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.keys.errors import KeyRefusedError, StoreDamagedError, StoreUnavailableError
from gateway.keys.record import KeyRecord
from gateway.keys.store import KeySpec
from gateway.keys.stores.file import file_store
from gateway.keys.tenancy import tenancy
from gateway.model import KeyLimits, KeyState, Signal, Tenant, digest_of
from tests.support.keys import read_all, running_keys

DIGEST = digest_of(b"a key in the clear")


def _write(path: Path, text: str) -> None:
    """Put a new file in place at once, as editors and configuration management do."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


async def _read(path: Path) -> list[KeyRecord]:
    store = file_store(path)
    await store.feed.open(create=True)
    return list((await read_all(store)).records)


async def test_an_entry_is_read_with_all_its_members(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"- digest: sha256:{DIGEST.hex()}\n  id: 7\n  name: agent-eu\n  description: EU agents\n"
        "  expiration: 2999-12-31\n  enabled: false\n  signals: [logs, traces]\n"
        "  limits: {requests: 100, bytes: 0}\n  owner: team-a\n  labels: {team: a}\n"
        "  headers: {X-Scope-OrgID: team-a}\n"
    )

    (record,) = await _read(path)

    assert (record.id, record.digest, record.name) == (7, DIGEST, "agent-eu")
    assert record.description == "EU agents"
    assert record.expires_at_ms == 32_503_593_600_000
    assert record.state is KeyState.DISABLED
    assert record.signals == frozenset({Signal.LOGS, Signal.TRACES})
    assert record.limits == KeyLimits(100, 0, None)
    assert record.tenancy == tenancy("team-a", {"team": "a"}, {"X-Scope-OrgID": "team-a"})


async def test_an_id_that_is_not_given_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- key: plain-key\n")
    (first,) = await _read(path)
    path.write_text(
        "- {key: other, name: other}\n- {key: plain-key, name: renamed}\n",
    )

    again = {record.name: record for record in await _read(path)}

    assert again["renamed"].id == first.id
    assert 10**14 <= first.id < 10**15
    assert first.digest == digest_of(b"plain-key")


async def test_a_folder_as_kubernetes_mounts_it_has_a_key_in_each_file(tmp_path: Path) -> None:
    version = tmp_path / "..2026"
    version.mkdir()
    (version / "agent-eu").write_text("first-key\n")
    (version / "agent-us").write_text("second-key")
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("agent-eu", "agent-us"):
        (tmp_path / name).symlink_to(f"..data/{name}")

    records = {record.name: record for record in await _read(tmp_path)}

    assert records["agent-eu"].digest == digest_of(b"first-key")
    assert records["agent-us"].digest == digest_of(b"second-key")
    assert len(records) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("- [", "no YAML in line"),
        ("key: plain-canary", "it is no list"),
        ("", "it is no list"),
        ("- plain-canary", "key 1: it is no mapping"),
        ("- {name: a}", "either digest or key"),
        ("- {key: plain-canary, digest: 'sha256:00'}", "either digest or key"),
        ("- {digest: plain-canary}", "not of the form sha256:"),
        ("- {key: 'plain-canary x'}", "a space"),
        ("- {key: 12345}", "put it in quotes"),
        ("- {key: a, nme: b}", "unknown member 'nme'"),
        ("- {key: a, id: 0}", "no whole number"),
        ("- {key: a, id: true}", "no whole number"),
        ("- {key: a, name: ''}", "its name is no text"),
        ("- {key: a, expiration: tomorrow}", "yyyy-MM-dd"),
        ("- {key: a, enabled: maybe}", "neither true nor false"),
        ("- {key: a, signals: [smoke]}", "signals is no list"),
        ("- {key: a, signals: []}", "signals is no list"),
        ("- {key: a, limits: 7}", "limits is no mapping"),
        ("- {key: a, limits: {moons: 7}}", "limits is no mapping"),
        ("- {key: a, limits: {requests: 1.5}}", "limits is no mapping"),
        ("- {key: a, limits: {requests: -1}}", "limits is no mapping"),
        ("- {key: a, limits: {requests: true}}", "limits is no mapping"),
        ("- {key: a, owner: 7}", "its owner is no text"),
        ("- {key: a, owner: ' x'}", "the owner begins or ends"),
        ("- {key: a, labels: team}", "labels is no mapping of names to texts"),
        ("- {key: a, labels: {team: 7}}", "labels is no mapping of names to texts"),
        ("- {key: a, labels: {-: x}}", "the name of a label cannot be '-'"),
        ("- {key: a, headers: [x]}", "headers is no mapping of names to texts"),
        ("- {key: a, headers: {te: x}}", "the header te cannot be set by a key"),
        ("- {key: a, headers: {X-T: a, x_t: b}}", "X-T and x_t are one"),
        ("- {key: a, headers: {X-T: a}}", "the key itself"),
        ("- {key: a}\n- {key: a, name: twin}", "key-1 and twin are the same key"),
        ("- {key: a, id: 1}\n- {key: b, id: 1}", "the same id 1"),
    ],
)
async def test_a_faulty_file_is_refused_and_shows_no_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)

    with pytest.raises(StoreDamagedError, match=message) as caught:
        await file_store(path).feed.open(create=True)

    assert "canary" not in str(caught.value)
    assert str(path) in str(caught.value)


async def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {name: a}\n- {key: good}\n- {key: b, id: x}\n")
    with pytest.raises(StoreDamagedError, match=r"key 1: .*; key 3: "):
        await file_store(path).feed.open(create=True)


async def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="No such file"):
        await file_store(tmp_path / "keys.yaml").feed.open(create=True)


async def test_a_new_version_is_taken_over_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {key: old, name: old}\n- {key: kept, name: kept}\n")
    async with running_keys([file_store(path, interval_s=0.005)]) as workers:
        assert workers.accepts(digest_of(b"old"))

        _write(path, "- {key: kept, name: kept}\n- {key: new, name: new}\n")
        await workers.until(lambda: workers.accepts(digest_of(b"new")))

        assert workers.accepts(digest_of(b"kept"))
        assert workers.keyring[digest_of(b"old")].state == KeyState.REVOKED


async def test_a_swapped_secret_is_taken_over(tmp_path: Path) -> None:
    for version, key in (("..1", "old"), ("..2", "new")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "agent").write_text(key)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "agent").symlink_to("..data/agent")
    async with running_keys([file_store(tmp_path, interval_s=0.005)]) as workers:
        (tmp_path / "..tmp").symlink_to("..2")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")  # noqa: PTH105 - of links themselves
        await workers.until(lambda: workers.accepts(digest_of(b"new")))

        assert not workers.accepts(digest_of(b"old"))


async def test_a_faulty_version_changes_nothing_and_is_told_until_it_is_mended(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {key: good, name: good}\n")
    async with running_keys([file_store(path, interval_s=0.005)]) as workers:
        _write(path, "- {key: good}\n- nonsense\n")
        await workers.until_status(lambda up: not up)

        (status,) = workers.keys.statuses()
        assert status.errors == {"damaged": 1}
        assert "key 2: it is no mapping" in (status.error or "")
        assert workers.accepts(digest_of(b"good"))
        assert workers.complete

        _write(path, "- {key: other}\n")
        await workers.until(lambda: workers.accepts(digest_of(b"other")))
        await workers.until_status(lambda up: up)
        assert not workers.accepts(digest_of(b"good"))


async def test_keys_of_a_file_are_not_changed_by_command(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {key: good, id: 5}\n")
    async with running_keys([file_store(path)]) as workers:
        with pytest.raises(KeyRefusedError, match=r"keys\.yaml are changed by changing the file"):
            await workers.keys.commands.delete(5)
        with pytest.raises(KeyRefusedError, match="no key store that can be written"):
            await workers.keys.commands.create(KeySpec("new"))


async def test_a_key_whose_headers_change_in_the_file_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- {key: plain-key, headers: {X-Tenant: a}}\n")
    digest = digest_of(b"plain-key")
    async with running_keys([file_store(path, interval_s=0.005)]) as workers:
        assert workers.keyring[digest].tenant == Tenant((("X-Tenant", "a"),))
        for headers, tenant in (
            ("{X-Tenant: b}", Tenant((("X-Tenant", "b"),))),
            ("{}", None),
            ("{X-Tenant: c}", Tenant((("X-Tenant", "c"),))),
        ):
            _write(path, f"- {{key: plain-key, headers: {headers}}}\n")
            await workers.until(lambda expected=tenant: workers.keyring[digest].tenant == expected)  # type: ignore[misc]  # a default of a lambda
