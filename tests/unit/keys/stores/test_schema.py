"""What holds for the tables wherever they are made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gateway.keys.stores.schema import metadata


def test_the_tables_can_be_made_in_a_database_of_any_encoding() -> None:
    made: list[str] = []

    def note(statement: Any, *_: object, **__: object) -> None:
        made.append(str(statement.compile(dialect=engine.dialect)))

    engine = sa.create_mock_engine("postgresql+asyncpg://", note)
    metadata.create_all(engine, checkfirst=False)

    assert any("COMMENT ON TABLE" in statement for statement in made)
    assert all(map(str.isascii, made))
