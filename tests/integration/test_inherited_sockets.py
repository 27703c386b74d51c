"""Sockets that systemd opened are taken over by the process that they are meant for."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.support.child import start_child

_CHILD = """
import os, socket, sys
from gateway.control.core.sockets import take_inherited
os.environ["LISTEN_PID"] = sys.argv[1] or str(os.getpid())
taken = take_inherited(os.environ)
assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(os.environ)
assert all(not sock.get_inheritable() for sock in taken)
print(*(sock.getsockname()[1] for sock in taken))
for sock in taken:
    sock.close()
"""


@pytest.mark.parametrize("pid,is_ours", [("", True), ("1", False)])
async def test_systemd_s_sockets_are_taken_when_they_are_meant_for_this_process(
    pid: str, *, is_ours: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        script = f"import os, sys\nos.dup2({given.fileno()}, 3)\n{_CHILD}"
        process = await start_child(
            sys.executable,
            "-c",
            script,
            pid,
            env={**os.environ, "LISTEN_FDS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            pass_fds=(given.fileno(),),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.decode().strip() == (str(given.getsockname()[1]) if is_ours else "")
