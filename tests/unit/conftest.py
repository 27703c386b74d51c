"""Unit tests start no process: each that does fails here.

A program beside a test costs a second of start and belongs in tests/integration.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Generator

import pytest


def _children() -> tuple[bool, int]:
    """Return whether a child process exists, and the page faults of all that were waited for.

    Every process has some, so that the sum grows with each, however it was started.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        has_one = False
    else:
        has_one = True
    return has_one, resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Remember what children there were before a test."""
    _ = nextitem
    item.stash[_BEFORE] = _children()
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that started a process, whether it has ended or not."""
    yield
    before = item.stash[_BEFORE]
    # A child of an earlier test of another kind may end just now: nothing follows from that.
    if not before[0] and _children() != before:
        pytest.fail("a unit test started a process: move it to tests/integration", pytrace=False)


_BEFORE = pytest.StashKey[tuple[bool, int]]()
