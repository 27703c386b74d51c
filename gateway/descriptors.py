"""Giving descriptors to a process that runs already: a worker that was started early.

One message over a Unix socket (SCM_RIGHTS, unix(7)) carries them, and the numbers that they have at
the sender: the receiver's are others.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

MOST: Final = 200
"""Descriptors in one message; the kernel takes 253."""
_NUMBER: Final = struct.Struct("=i")


def send(sock: socket.socket, numbers: Sequence[int]) -> None:
    """Send at most `MOST` descriptors, and at least one. Raises `OSError`."""
    packed = b"".join(map(_NUMBER.pack, numbers))
    socket.send_fds(sock, [packed], numbers)


def receive(sock: socket.socket) -> dict[int, int]:
    """Wait for descriptors; return the sender's number → the number here.

    Empty when the sender is gone. Raises `OSError` when not all could be taken over. Blocks.
    """
    packed, received, flags, _ = socket.recv_fds(sock, MOST * _NUMBER.size, MOST)
    numbers = [number for (number,) in _NUMBER.iter_unpack(packed)]
    if len(numbers) != len(received) or flags & socket.MSG_CTRUNC:
        for each in received:
            socket.close(each)
        msg = "not all descriptors could be taken over: raise the limit of open files"
        raise OSError(msg)
    return dict(zip(numbers, received, strict=True))
