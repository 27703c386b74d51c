"""Header blocks as real clients encode them: recorded, sent again, and read by our decoder."""

from __future__ import annotations

import itertools

import hpack
import pytest

from bench import decoder_paths, heads, record, wire
from bench.backend import Backend, send_load
from bench.heads import HeaderBlocks, RecordedHeads, Recording
from bench.report import RunFailedError

PEER_SPECIFIC = frozenset({":authority", "grpc-timeout"})


def fields_of(decoder: hpack.Decoder, block: bytes) -> dict[str, str]:
    return {str(name): str(value) for name, value in decoder.decode(block)}


def lasting(fields: dict[str, str]) -> list[tuple[str, str]]:
    return [pair for pair in fields.items() if pair[0] not in PEER_SPECIFIC]


def test_every_client_that_can_be_recorded_is() -> None:
    assert heads.recorded() == sorted(record.CLIENTS)


@pytest.mark.parametrize("name", heads.recorded())
def test_a_recording_can_be_sent_on_for_as_long_as_is_wanted(name: str) -> None:
    recording = Recording.load(name)
    encoder = RecordedHeads(name)

    for blocks in recording.connections:
        writer, decoder = encoder.writer(), hpack.Decoder()
        first = fields_of(decoder, writer.block(0))
        assert first[":path"] == heads.PATH
        assert first["authorization"].startswith("StackState iapikey-")
        for number in range(1, 3 * len(blocks)):
            assert lasting(fields_of(decoder, writer.block(number))) == lasting(first)


@pytest.mark.parametrize("name", heads.recorded())
def test_connections_have_a_key_each(name: str) -> None:
    encoder = RecordedHeads(name)
    count = len(Recording.load(name).connections)

    keys = [
        fields_of(hpack.Decoder(), encoder.writer().block(0))["authorization"]
        for _ in range(count + 1)
    ]

    assert len(set(keys)) == count > 1
    assert keys[-1] == keys[0]


def test_the_part_that_depends_on_nothing_before_it_is_found() -> None:
    plain = wire.fields([(":method", "POST"), ("a", "b")])
    indexed, referring = b"\x40\x01a\x01b", b"\xbe"

    assert heads.circle_start([plain, plain]) == 0
    assert heads.circle_start([wire.TABLE_SIZE_UPDATE_TO_ZERO + plain, plain, plain]) == 1
    assert heads.circle_start([indexed, referring, plain, plain]) == 2
    assert heads.circle_start([indexed, referring]) is None


def test_an_encoder_without_huffman_code_writes_the_same_fields() -> None:
    fields = heads.dotnet_fields("127.0.0.1:4317", "gzip")

    block = b"".join(wire.plain_field(*pair) for pair in fields)

    assert list(fields_of(hpack.Decoder(), block).items()) == fields
    assert b"grpc-dotnet" in block


def test_what_never_signals_has_no_table_size_update() -> None:
    writer = HeaderBlocks("127.0.0.1:4317", None, 2, is_plain=True).writer()
    writer.told()

    assert writer.block(0)[0] & 0xE0 != 0x20


def test_the_decoders_ways_are_counted_by_encoder() -> None:
    counts = decoder_paths.count()

    assert set(counts) == {*heads.recorded(), heads.NEVER_SIGNALS}
    assert all(each.by_bytes + each.in_full > 0 for each in counts.values())
    recording = Recording.load(heads.REFERENCE)
    followed = counts[heads.REFERENCE]
    assert followed.in_full <= len(recording.connections), "the first block of each signals"
    assert followed.by_bytes >= sum(len(row) - 1 for row in recording.connections)
    assert counts["grpc-go-table"].in_full > followed.in_full


def test_a_client_is_recorded_as_it_sends() -> None:
    fresh, kept = record.record("c-core"), Recording.load("c-core")

    def shape(recording: Recording) -> list[list[str]]:
        decoder = hpack.Decoder()
        return [list(fields_of(decoder, block)) for block in recording.connections[0]]

    assert shape(fresh) == shape(kept)


def test_a_recording_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "RECORDINGS", tmp_path_factory.mktemp("made") / "recordings")
    made = Recording("mine", "a client", is_told=True, connections=[[b"\x83", b"\x86"]])

    made.save()

    assert Recording.load("mine") == made
    assert heads.recorded() == ["mine"]


def test_an_unheard_of_encoder_is_refused_with_the_names_that_exist(backend: Backend) -> None:
    with pytest.raises(RunFailedError, match="choose one of c-core, grpc-go, grpc-go-table, "):
        send_load(["grpc", f"--port={backend.port}", "--encoder=mine"], None)


def test_an_unheard_of_client_is_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main(["mine"]) == 2
    assert "choose from grpc-go, " in capsys.readouterr().err


def test_deadlines_differ_from_request_to_request() -> None:
    writer, decoder = RecordedHeads(heads.REFERENCE).writer(), hpack.Decoder()
    timeouts = [fields_of(decoder, writer.block(at))["grpc-timeout"] for at in range(60)]

    assert sum(one != other for one, other in itertools.pairwise(timeouts)) > 50
