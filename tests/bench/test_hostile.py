"""The frame of the attacks: what is sent, what is seen, which gates there are."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import wire
from bench.hostile import frames, table
from bench.hostile.__main__ import main
from bench.hostile.attack import SOURCE, Target, Traffic
from bench.hostile.attacks import ATTACKS, BY_NAME
from bench.hostile.attacks.tls import key_updates
from bench.hostile.bystanders import Report, reports_from_json
from bench.hostile.flood import UNTIL_READ, Flood, Inbox, Plan, Step
from bench.hostile.gates import Memory, Observation, grown
from bench.hostile.victim import parse_series
from tests.support.certs import Authority

ABUSE = 'gateway_abuse_total{kind="ping"}'
GOOD = Report(requests=100, failed=0, p50_ms=2.0, p99_ms=8.0, max_ms=9.0)
SEEN = Observation(
    attack="ping",
    title="PING",
    counted=(r"^gateway_abuse_total\{",),
    traffic=Traffic(sent_bytes=2_000_000, opened=4, ended=4),
    before={"keep-alive": GOOD},
    during={"keep-alive": GOOD},
    memory=Memory(base_mb=40.0, peak_mb=105.0, connections=16, buffer_mb=64.0),
    grown={ABUSE: 4.0},
    same_worker=True,
)


def fared(**values: object) -> Observation:
    report = dataclasses.replace(GOOD, **values)  # type: ignore[arg-type] # a field's own type
    return dataclasses.replace(SEEN, during={"keep-alive": report})


@pytest.mark.parametrize(
    "seen, missed",
    [
        (SEEN, []),
        (fared(p99_ms=50.0), []),
        (fared(p99_ms=50.1), ["keep-alive: p99 50 ms, at most 50"]),
        (fared(failed=1, reasons=["503"]), ["keep-alive: 1 of 100 failed (503)"]),
        (fared(requests=0), ["keep-alive: 0 of 0 failed (nothing was sent)"]),
        (dataclasses.replace(SEEN, same_worker=False), ["worker replaced (another process)"]),
        (
            dataclasses.replace(
                SEEN, grown={ABUSE: 1.0, 'gateway_worker_restarts_total{reason="hung"}': 1.0}
            ),
            ['worker replaced (gateway_worker_restarts_total{reason="hung"})'],
        ),
        (dataclasses.replace(SEEN, grown={"gateway_connections{}": 1.0}), ["not counted"]),
        (
            dataclasses.replace(SEEN, memory=Memory(40.0, 105.1, 16, 64.0)),
            ["worker holds 105 MB, at most 105"],
        ),
        (
            dataclasses.replace(
                SEEN, grown={ABUSE: 1.0, 'gateway_internal_errors_total{place="exchange"}': 1.0}
            ),
            ['internal error: gateway_internal_errors_total{place="exchange"}'],
        ),
    ],
)
def test_each_bound_is_a_gate(seen: Observation, missed: list[str]) -> None:
    assert seen.missed() == missed


def test_five_times_the_wait_without_an_attack_is_allowed() -> None:
    slow = dataclasses.replace(GOOD, p99_ms=20.0)
    seen = dataclasses.replace(fared(p99_ms=100.0), before={"keep-alive": slow})

    assert seen.missed() == []
    assert dataclasses.replace(seen, before={"keep-alive": GOOD}).missed()


def test_series_are_compared_by_their_peak_and_their_end() -> None:
    before = {"a": 1.0, "b": 5.0, "c": 2.0}
    after = {"a": 4.0, "b": 5.0, "c": 2.0, "d": 1.0}

    assert grown(before, after, {"c": 9.0}) == {"a": 3.0, "c": 7.0, "d": 1.0}


def test_a_page_of_metrics_is_read_without_its_histograms() -> None:
    page = (
        "# TYPE gateway_abuse_total counter\n"
        'gateway_abuse_total{kind="ping"} 3.0\n'
        "# TYPE gateway_connections gauge\n"
        "gateway_connections 2.0\n"
        "# TYPE gateway_request_duration_seconds histogram\n"
        'gateway_request_duration_seconds_bucket{le="+Inf"} 1.0\n'
    )

    assert parse_series(page) == {ABUSE: 3.0, "gateway_connections{}": 2.0}


def test_the_table_names_what_was_sent_seen_and_missed() -> None:
    bad = dataclasses.replace(SEEN, grown={})

    assert table.row(SEEN) == (
        "PING",
        "2.0 MB, 4 conn.",
        "100 %",
        "8 → 8, 0 → 0",
        "105, 105",
        "abuse_total ping",
        "held",
    )
    assert table.row(bad)[-2:] == ("–", "MISSED")
    assert table.text([SEEN, bad]).endswith("GATE MISSED: ping: not counted")
    assert table.markdown([SEEN]).splitlines()[2].startswith("| PING | 2.0 MB, 4 conn. | 100 % |")


def test_one_lost_request_is_not_rounded_away() -> None:
    assert table.row(fared(requests=1_000_000, failed=1))[2] == "99.99 %"


def test_every_attack_has_a_name_of_its_own_and_says_how_it_is_counted() -> None:
    assert len(BY_NAME) == len(ATTACKS)
    for attack in ATTACKS:
        assert attack.counted
        for pattern in attack.counted:
            re.compile(pattern)


def test_reports_survive_the_way_between_processes() -> None:
    target = Target(1, 2, 3, 4, "key")

    assert Target.from_json(target.to_json()) == target
    assert Traffic.from_json(SEEN.traffic.to_json()) == SEEN.traffic
    text = json.dumps({"keep-alive": dataclasses.asdict(GOOD)})
    assert reports_from_json(text) == {"keep-alive": GOOD}


class Peer:
    """A server that notes what it got on each connection, answers once, and says from where."""

    def __init__(self, answer: bytes = b"", *, closes: bool = False) -> None:
        self.received: dict[int, bytearray] = {}
        self.addresses: set[str] = set()
        self._answer = answer
        self._closes = closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._threads: list[threading.Thread] = []
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            self.addresses.add(address[0])
            self.received[number] = bytearray()
            thread = threading.Thread(target=self._serve, args=(client, number))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with client:
            client.sendall(self._answer)
            while not self._closes:
                try:
                    data = client.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                self.received[number] += data


def test_each_connection_sends_its_script_from_the_attackers_address() -> None:
    def script(number: int, _inbox: Inbox) -> Iterator[Step]:
        yield UNTIL_READ
        yield b"number "
        yield 0.01
        yield str(number).encode()

    peer = Peer(b"go")
    traffic = Flood(Plan((peer.port,), script, connections=3)).run(0.5)
    peer.stop()

    assert sorted(peer.received.values()) == [b"number 0", b"number 1", b"number 2"]
    assert peer.addresses == {SOURCE}
    assert traffic == Traffic(sent_bytes=24, opened=3)


def test_a_connection_that_is_ended_is_followed_by_another_unless_the_plan_says_no() -> None:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        return iter(())

    peer = Peer(closes=True)
    again = Flood(Plan((peer.port,), script, connections=2)).run(0.3)
    once = Flood(Plan((peer.port,), script, connections=2, reopens=False)).run(0.3)
    peer.stop()

    assert again.ended > 2
    assert again.opened > 2
    assert once == Traffic(opened=2, ended=2)


def test_an_upload_over_http2_stays_within_the_windows() -> None:
    windows = frames.Windows()
    windows.open(1)
    limits = wire.settings({wire.SETTING_INITIAL_WINDOW_SIZE: 100}) + wire.window_update(1, 50)

    windows.feed(limits[:20])
    windows.feed(limits[20:])

    assert windows.take(1, 120) == 120
    assert windows.take(1, 120) == 30
    windows.feed(wire.frame(wire.RST_STREAM, 0, 1, bytes(4)))
    assert windows.take(1, 1) == 0
    assert windows.connection == wire.DEFAULT_WINDOW - 150


def test_long_header_blocks_go_on_in_continuation_frames() -> None:
    sent = frames.headers(1, bytes(20_000))

    assert sent[:9] == wire.frame(wire.HEADERS, wire.FLAG_END_STREAM, 1, bytes(16_384))[:9]
    last = wire.frame(frames.CONTINUATION, wire.FLAG_END_HEADERS, 1, bytes(20_000 - 16_384))
    assert sent.endswith(last)


def test_key_updates_are_what_openssl_reads(tmp_path: Path) -> None:
    log = tmp_path / "keys"
    authority = Authority.create(tmp_path / "ca")
    server_side = authority.issue("server", ["localhost"]).server_context()
    client_side = ssl.create_default_context(cafile=str(authority.cert_file))
    client_side.keylog_filename = str(log)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    secret = re.search(r"CLIENT_TRAFFIC_SECRET_0 \w+ (\w+)", log.read_text())
    cipher = client.cipher()
    assert secret is not None
    assert cipher is not None

    updates = key_updates(bytes.fromhex(secret[1]), cipher[0])
    to_server.write(b"".join(itertools.islice(updates, 5)))

    with pytest.raises(ssl.SSLWantReadError):
        server.read(1)
    assert to_server.pending == 0


def test_an_attack_on_a_real_gateway_is_seen_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, docs = tmp_path / "results.json", tmp_path / "table.md"

    code = main(["--attack=made-up-keys", "--seconds=1", f"--json={results}", f"--markdown={docs}"])

    (seen,) = json.loads(results.read_text())
    assert code == (1 if seen["missed"] else 0)
    assert seen["traffic"]["sent_bytes"] > 0
    assert any('result="denied"' in name for name in seen["counted_as"])
    assert seen["memory"]["base_mb"] > 10
    assert set(seen["during"]) == {"keep-alive", "grpc", "opens", "opens-tls", "probes"}
    assert all(report["requests"] for report in seen["before"].values())
    assert "made-up keys in turn" in docs.read_text()
    assert capsys.readouterr().out.startswith("1/1 made-up-keys: ")


def test_an_unknown_attack_and_a_longer_one_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["--attack=none"], ["--seconds=60"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    assert "1 to 15 seconds" in capsys.readouterr().err


def test_the_list_has_every_attack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0

    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [attack.name for attack in ATTACKS]
