"""The tables of keys' limits: columns for workers, memory for rows in use only."""

from __future__ import annotations

import os

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.control.workers.quota_tables import CONTROLS, GENERATIONS, QuotaTable, QuotaTables
from gateway.dataplane.exchange.quota_rows import QuotaRows
from gateway.quota_layout import ROWS, owner_of
from gateway.settings import ForwardSettings, WorkerSettings
from tests.support.plane import LIMITS


def _settings() -> WorkerSettings:
    forward = ForwardSettings("client", None, "StackState", identity_headers=False)
    return WorkerSettings(0, 1, 0, (), (), forward, (), LIMITS)


def test_columns_are_given_away_once_until_they_are_free_again() -> None:
    table = QuotaTable(2)
    places = [table.take() for _ in range(2 * GENERATIONS + CONTROLS)]
    columns = [place.column for place in places if place is not None]
    assert columns == list(range(2 * GENERATIONS + CONTROLS))
    assert table.take() is None
    table.free(3)
    place = table.take()
    assert place is not None
    assert place.column == 3
    table.close()


def test_a_freed_column_has_no_open_requests_in_any_row_and_keeps_its_counts() -> None:
    table = QuotaTable(2)
    first, second = table.take(), table.take()
    assert first is not None
    assert second is not None
    rows = [QuotaRows.shared(place) for place in (first, second)]
    positions = [rows[0].find(owner_of(str(key)), 100) for key in range(2_000)]
    assert len(set(positions)) == 2_000
    for each in rows:
        for row in positions:
            each.cells[row + each.requests_at + each.column] = 7.0
            each.cells[row + each.open_at + each.column] = 3.0
    table.free(first.column)
    for row in positions:
        assert rows[0].total(row + rows[0].requests_at) == 2 * 7.0
        assert rows[0].total(row + rows[0].open_at) == 3.0
    table.close()


def test_only_rows_in_use_take_memory() -> None:
    table = QuotaTable(8)
    place = table.take()
    assert place is not None
    rows = QuotaRows.shared(place)
    for key in range(100):
        rows.cells[rows.find(owner_of(str(key)), 100)] = 1.0
    table.free(place.column)
    used = os.fstat(table.fd).st_blocks * 512
    assert used < 100 * 3 * 4096 + ROWS * 16 + 4096, "two or three pages a row, and the owners"
    table.close()


def test_the_table_cannot_be_truncated() -> None:
    table = QuotaTable(1)
    with pytest.raises(PermissionError):
        os.ftruncate(table.fd, 0)
    table.close()


def test_more_workers_than_before_get_a_larger_table_and_fewer_do_not() -> None:
    tables = QuotaTables()
    tables.prepare(2)
    first = tables.place(_settings())
    tables.prepare(1)
    second = tables.place(_settings())
    tables.prepare(4)
    third = tables.place(_settings())
    assert first.quotas is not None
    assert second.quotas is not None
    assert third.quotas is not None
    assert first.quotas.fd == second.quotas.fd != third.quotas.fd
    assert (second.quotas.column, third.quotas.column) == (1, 0)
    tables.not_started(first)
    os.fstat(first.quotas.fd)
    tables.not_started(second)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.quotas.fd)
    tables.close()


def test_a_worker_for_which_no_column_is_left_starts_without_and_that_is_told() -> None:
    tables = QuotaTables()
    tables.prepare(1)
    places = [tables.place(_settings()).quotas for _ in range(GENERATIONS + CONTROLS)]
    assert None not in places
    with capture_logs() as logs:
        assert tables.place(_settings()).quotas is None
    assert [log["log_level"] for log in logs] == ["warning"]
    tables.close()


def test_control_has_a_column_of_its_own_in_the_table_in_use() -> None:
    tables = QuotaTables()
    assert tables.own_place() is None
    tables.prepare(1)
    worker = tables.place(_settings()).quotas
    own = tables.own_place()
    assert worker is not None
    assert own is not None
    assert tables.own_place() is own
    assert (own.fd, own.column != worker.column) == (worker.fd, True)
    tables.prepare(2)
    later = tables.own_place()
    assert later is not None
    assert later.fd != own.fd
    assert tables.own_place() is later
    tables.not_started(msgspec.structs.replace(_settings(), quotas=worker))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own.fd)
    tables.close()
