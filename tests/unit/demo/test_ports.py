from __future__ import annotations

import socket

from gateway.demo.ports import choose_ports


def test_a_free_port_is_kept() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert choose_ports([free]) == [free]


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (chosen,) = choose_ports([port])
        assert chosen != port
        socket.create_server(("127.0.0.1", chosen)).close()


def test_a_port_taken_on_all_addresses_is_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert choose_ports([port]) != [port]


def test_all_chosen_ports_differ() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert len(set(choose_ports([port] * 5))) == 5
