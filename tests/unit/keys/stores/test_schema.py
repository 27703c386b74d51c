"""What holds for the tables wherever they are made."""

from __future__ import annotations

from gateway.keys.stores.schema import MIGRATIONS, POSTGRESQL, SQLITE


def test_the_tables_can_be_made_in_a_database_of_any_encoding() -> None:
    made = [statement for migration in MIGRATIONS for statement in migration(POSTGRESQL)]

    assert sum("COMMENT ON TABLE" in statement for statement in made) == 3
    assert all(map(str.isascii, made))


def test_sqlite_is_told_nothing_that_it_does_not_know() -> None:
    made = [statement for migration in MIGRATIONS for statement in migration(SQLITE)]

    assert not any("COMMENT" in statement for statement in made)


def test_every_store_gets_an_id_of_its_own() -> None:
    first, second = [list(MIGRATIONS[0](SQLITE)) for _ in range(2)]

    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]
