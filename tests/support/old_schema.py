"""The tables of SQL stores as version 2 made them (gateway 0.1), to be brought up to date.

Written down, not made by today's code: a migration is tried on what is really there.
"""

from __future__ import annotations

from typing import Final

from gateway.keys.store import KeyUpdate
from gateway.keys.stores.sql_store import SqlStore
from gateway.keys.tenancy import TenancyUpdate
from gateway.model import KeyLimits, Signal

_TABLES: Final = """
CREATE TABLE gateway_key_store (one {one} NOT NULL CHECK (one = 1),
    schema_version INTEGER NOT NULL, store_id VARCHAR(32) NOT NULL, revision {big} NOT NULL,
    purged_revision {big} NOT NULL, PRIMARY KEY (one));
CREATE TABLE gateway_keys (id {big} NOT NULL, digest {bytes} NOT NULL, name TEXT NOT NULL,
    description TEXT, created_ms {big} NOT NULL, updated_ms {big} NOT NULL, expires_at_ms {big},
    deleted_at_ms {big}, enabled BOOLEAN NOT NULL, signals JSON, limits JSON,
    revision {big} NOT NULL, PRIMARY KEY (id), UNIQUE (digest));
CREATE INDEX ix_gateway_keys_revision ON gateway_keys (revision);
CREATE TABLE gateway_key_audit (revision {big} NOT NULL, at_ms {big} NOT NULL,
    action VARCHAR(16) NOT NULL, key_id {big} NOT NULL, key_name TEXT NOT NULL, who TEXT NOT NULL,
    origin TEXT NOT NULL, changes JSON NOT NULL, PRIMARY KEY (revision));
CREATE INDEX ix_gateway_key_audit_key_id ON gateway_key_audit (key_id);
INSERT INTO gateway_key_store VALUES (1, 2, 'the-store', 1, 0);
INSERT INTO gateway_keys VALUES (7, {digest}, 'kept', 'd', 1, 1, NULL, NULL, true,
    '["logs"]', '{{"requests": 5}}', 1);
INSERT INTO gateway_key_audit VALUES (1, 1, 'create', 7, 'kept', 'me', 'here', '{{}}')
"""
_TYPES: Final = {
    "sqlite": {"one": "INTEGER", "big": "INTEGER", "bytes": "BLOB"},
    "postgresql": {"one": "SERIAL", "big": "BIGINT", "bytes": "BYTEA"},
}
_DIGEST: Final = {"sqlite": "X'{}'", "postgresql": "'\\x{}'"}


def version_2(database: str, digest: bytes) -> list[str]:
    """Return the statements that make a store of version 2, at revision 1, with one key.

    The key has the id 7, the name `kept`, the signal `logs` and a limit of 5 requests. `database`
    is `sqlite` or `postgresql`.
    """
    digest_text = _DIGEST[database].format(digest.hex())
    return _TABLES.format(**_TYPES[database], digest=digest_text).split(";")


async def check_brought_up_to_date(store: SqlStore) -> None:
    """Check that an opened store of version 2 has its key, and takes what came later."""
    (kept,) = await store.feed.live()
    assert (kept.id, kept.name, kept.description, kept.signals, kept.limits, kept.tenancy) == (
        7,
        "kept",
        "d",
        frozenset({Signal.LOGS}),
        KeyLimits(5),
        None,
    )
    given = TenancyUpdate("o", {"team": "a"}, {"X-Scope-OrgID": "a"})
    changed = await store.repository.update(7, KeyUpdate(tenancy=given), 9)
    assert changed.tenancy == given.applied(None)
    assert await store.feed.live() == [changed]
    assert [entry.action for entry in await store.repository.audit(9)] == ["update", "create"]
    await store.feed.close()
    await store.feed.open(create=False)
    assert await store.feed.live() == [changed]
