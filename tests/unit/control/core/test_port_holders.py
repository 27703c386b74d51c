from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.control.core.port_holders import Holders, find_holders
from gateway.control.core.processes import (
    arguments_of,
    boot_id,
    identify,
    name_of,
    program_of,
    user_of,
)

NOBODY = 2**22 + 1
"""More than Linux gives to any process (PID_MAX_LIMIT)."""


@pytest.mark.parametrize("wildcard", [False, True])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_who_listens_is_found(family: int, wildcard: bool) -> None:
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server(("" if wildcard else loopback, 0), family=family) as sock:
        port = sock.getsockname()[1]
        found = find_holders([(loopback, port)])
        assert found == Holders((os.getpid(),), (os.geteuid(),))
        assert str(found) == f"pid {os.getpid()} ({name_of(os.getpid())})"


def test_whoever_is_not_in_the_way_is_not_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connected,
    ):
        port = listening.getsockname()[1]
        assert find_holders([("127.0.0.2", port)]) == Holders((), ())
        assert find_holders([connected.getsockname()]) == Holders((), ())


def test_a_process_that_cannot_be_seen_is_named_by_its_user() -> None:
    assert str(Holders((), (33,))) == "a process of the user with uid 33"
    assert str(Holders((), ())) == ""
    many = str(Holders(tuple(range(NOBODY, NOBODY + 7)), (0,)))
    assert many.startswith(f"pid {NOBODY} (unknown), ")
    assert many.endswith(" and 2 more")


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    pid = os.getpid()
    found = identify(pid)
    assert found is not None
    assert found == identify(pid)
    assert found.started != getattr(identify(os.getppid()), "started", None)
    assert user_of(pid) == os.geteuid()
    assert Path(program_of(pid)).samefile("/proc/self/exe")
    assert len(arguments_of(pid)) > 1
    assert boot_id()


def test_of_a_process_that_is_not_there_nothing_is_known() -> None:
    assert identify(NOBODY) is None
    assert user_of(NOBODY) is None
    assert program_of(NOBODY) == name_of(NOBODY) == ""
    assert arguments_of(NOBODY) == []
