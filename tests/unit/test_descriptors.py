from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gateway import descriptors
from gateway.settings import ListenerSettings, QuotaPlace, descriptors_of, with_descriptors
from tests.support.plane import settings


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_is_received_is_the_same_file_under_another_number(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    reading, writing = os.pipe()
    descriptors.send(pair[0], [writing, reading])

    received = descriptors.receive(pair[1])

    assert set(received) == {writing, reading}
    assert not set(received.values()) & {writing, reading}
    os.write(received[writing], b"x")
    assert os.read(reading, 9) == b"x"
    for each in (reading, writing, *received.values()):
        os.close(each)


def test_as_many_as_may_be_sent_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    sent = [os.dup(pair[0].fileno()) for _ in range(descriptors.MOST)]
    descriptors.send(pair[0], sent)
    pair[0].send(b"what follows")

    received = descriptors.receive(pair[1])

    assert list(received) == sent
    assert pair[1].recv(99) == b"what follows"
    for each in (*sent, *received.values()):
        os.close(each)


def test_a_sender_that_is_gone_gives_none(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert descriptors.receive(pair[1]) == {}


def test_numbers_without_their_descriptors_are_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].send(b"\1\0\0\0")
    with pytest.raises(OSError, match="limit of open files"):
        descriptors.receive(pair[1])


def test_settings_get_the_numbers_that_descriptors_have_here() -> None:
    listeners = [ListenerSettings(5, "127.0.0.1:1"), ListenerSettings(6, "127.0.0.1:2")]
    theirs = settings(listeners, 4, quotas=QuotaPlace(7, 2, 1))
    assert descriptors_of(theirs) == [4, 5, 6, 7]

    ours = with_descriptors(theirs, {4: 40, 5: 50, 6: 60, 7: 70})

    assert descriptors_of(ours) == [40, 50, 60, 70]
    assert with_descriptors(ours, {40: 4, 50: 5, 60: 6, 70: 7}) == theirs
