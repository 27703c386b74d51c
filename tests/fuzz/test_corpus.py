"""Every kept input through its target, without a fuzzer: what was mended stays mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, GUIDED_BY
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.sides import EMPTY_SETTINGS, SETTINGS_ACK, frame, frames
from tests.fuzz.worlds import Reader, ServerWorld, UpstreamWorld, run
from tests.support.in_memory import GRPC_PATH, HTTP_PATH

_LARGEST = 4096
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_kept_input_breaks_nothing(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


def test_the_corpus_is_small_and_has_inputs_for_every_target() -> None:
    assert {file.parent.name for file in FILES} == set(TARGETS) == set(GUIDED_BY)
    assert all(file.stat().st_size <= _LARGEST for file in FILES)


def test_inputs_reach_backends_and_their_answers_reach_callers() -> None:
    """Or the targets would look at refusals only."""

    async def main() -> None:
        http1 = ServerWorld(is_http2=False)
        await http1.send((CORPUS / "http1_server/length").read_bytes()[2:])
        assert [each.target for each in http1.forwarded] == [(HTTP_PATH, None)]
        assert http1.forwarded[0].body == b"hello"
        assert b"HTTP/1.1 200 OK" in http1.wire.transport.written
        await http1.end()
        http2 = ServerWorld(is_http2=True)
        opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS + SETTINGS_ACK
        reader = Reader((CORPUS / "http2_server/grpc").read_bytes()[2:])
        await http2.send(opening + frames(reader))
        assert [each.target for each in http2.forwarded] == [(GRPC_PATH, None)]
        assert b"grpc-status" in http2.wire.transport.written
        await http2.end()
        backend = UpstreamWorld(is_http2=True)
        await backend.send(EMPTY_SETTINGS + SETTINGS_ACK)
        request = backend.request()
        assert request is not None
        await backend.send(frames(Reader((CORPUS / "http2_upstream/ok").read_bytes()[2:])))
        assert request.notes.ended
        assert [section.status for section in request.notes.sections] == [200, 0]
        await backend.end()

    run(main())


def test_frames_are_made_of_any_input_and_raw_bytes_stay_raw() -> None:
    made = frames(Reader(b"\x08\x00\x01\x04\0\0\0\x01" + b"\xff\x02ab" + b"\x00\x01\x03"))

    assert made == frame(8, 0, 1, b"\0\0\0\x01") + b"ab" + frame(0, 1, 3, b"")
