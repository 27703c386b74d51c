"""What holds for every test."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final

import hypothesis
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from gateway import compiled

if TYPE_CHECKING:
    from tests.support.postgresql import PostgresqlServer

REQUIRE_TOOLS: Final = os.environ.get("REQUIRE_TOOLS") == "1"
"""Whether every test must run: then a skip is a failure."""

CLEARING_UP_S: Final = 120.0
"""Clearing up after a test that takes longer never ends."""
STUCK_S: Final = 300.0
"""A test that runs longer does not hear pytest-timeout, which fails it after 120 s."""

# No test asserts a time: a slow machine is no fault.
hypothesis.settings.register_profile("gateway", deadline=None)
hypothesis.settings.load_profile("gateway")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every test must run."""
    _ = item, call
    report = yield
    if REQUIRE_TOOLS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, although REQUIRE_TOOLS=1: {_reason(report)}"
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only plain Python allows while the data path runs compiled."""
    if not compiled.is_compiled():
        return
    left_out = [item for item in items if item.get_closest_marker("python_only")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the run, and say where it stood, if a test does not even fail."""
    stderr = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(STUCK_S, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """End the run, and say where it stood, if what a test left behind cannot be cleared up.

    pytest-timeout lets go of a test when it fails, and a leaked connection can keep a loop open.
    """
    stderr = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(CLEARING_UP_S, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure where every test must run."""
    _ = collector
    report = yield
    if REQUIRE_TOOLS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, although REQUIRE_TOOLS=1: {_reason(report)}"
    return report


@pytest.fixture(scope="session", name="one_server")
def _one_server() -> Iterator[PostgresqlServer]:
    # Imported above it would lengthen the start of every run by a second.
    from tests.support.postgresql import postgresql_server  # noqa: PLC0415 - as said

    with postgresql_server() as server:
        yield server


@pytest.fixture(name="server")
def _server(one_server: PostgresqlServer) -> PostgresqlServer:
    """Return a running PostgreSQL with room for new databases; a test may kill it.

    Each process of the test run has one, started when the first test needs it.
    """
    one_server.start()
    return one_server


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
