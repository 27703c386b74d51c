"""What `python -m tests.fuzz` prints of a failure, from logs as libFuzzer writes them."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.fuzz import report

_BEFORE = """\
INFO: Instrumenting gateway.wire.huffman
WARNING: Failed to find function "__sanitizer_acquire_crash_state".
#2\tINITED cov: 13 ft: 13 corp: 1/17b exec/s: 0 rss: 86Mb
#79\tREDUCE cov: 14 ft: 38 corp: 5/85b lim: 17 exec/s: 0 rss: 86Mb L: 17/17 MS: 1 CrossOver-
"""
_TRACEBACK = """\
 === Uncaught Python exception: ===
AssertionError: more on a stream after its end
Traceback (most recent call last):
  File "tests/fuzz/targets/sides.py", line 117, in http2_server
AssertionError: more on a stream after its end
"""
_TIMEOUT = """\
 === Timeout: 12s elapsed, timeout=10s ===
Current thread 0x00007fce9a7e8b80 (most recent call first):
  File "tests/fuzz/targets/wire_formats.py", line 55 in fields_alone
ALARM: working on the last Unit for 11 seconds
"""
_DATA = b"GET\n\0"


def _dump(file: Path) -> str:
    return f"""\
MS: 1 ChangeByte-; base unit: dc82a6db630640e7323e0fb4bb1e55bcbc10f05b
0x47,0x45,0x54,0xa,0x0,
GET\\012\\000
artifact_prefix='kept-'; Test unit written to {file}
Base64: {base64.b64encode(_DATA).decode()}
"""


def _input(file: Path) -> list[str]:
    return [
        "input, 5 bytes: 4745540a00",
        f"file: {file}",
        "repeat it: python -m tests.fuzz --target some --base64 R0VUCgA=",
    ]


def test_a_crash_is_its_traceback_its_input_and_how_to_repeat_it(tmp_path: Path) -> None:
    file = tmp_path / "some-crash-1"
    file.write_bytes(_DATA)
    exited = (
        "\n==7== ERROR: libFuzzer: fuzz target exited\nSUMMARY: libFuzzer: fuzz target exited\n"
    )
    log = _BEFORE + "\n" + _TRACEBACK + exited + _dump(file)
    assert report.failure("some", log) == ["==> some", *_TRACEBACK.splitlines(), *_input(file)]


def test_an_input_that_takes_too_long_is_reported_with_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "some-timeout-1"
    file.write_bytes(_DATA)
    end = "==7== ERROR: libFuzzer: timeout after 11 seconds\n"
    log = _BEFORE + _TIMEOUT + _dump(file) + end
    expected = ["==> some", *_TIMEOUT.splitlines(), end.strip(), *_input(file)]
    assert report.failure("some", log) == expected


def test_a_large_input_is_dumped_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "some-crash-1"
    file.write_bytes(bytes(1_000))
    written = f"artifact_prefix='kept-'; Test unit written to {file}\n"
    log = _TRACEBACK + "MS: 1 ChangeByte-; base unit: dc82a6db\n" + written
    *told, data, _, _ = report.failure("some", log)
    assert told == ["==> some", *_TRACEBACK.splitlines()]
    assert data == "input, 1000 bytes: " + bytes(256).hex() + "…"


def test_a_target_that_does_not_even_begin_shows_why() -> None:
    log = "INFO: Instrumenting gateway\nTraceback (most recent call last):\nImportError: no x\n"
    lines = report.failure("some", log)
    assert lines[1:3] == ["Traceback (most recent call last):", "ImportError: no x"]
    assert "no input was kept" in lines[-1]


def test_the_last_count_of_inputs_counts() -> None:
    assert report.inputs_tried(_BEFORE) == "79"
    assert report.inputs_tried(_BEFORE + "Done 915942 runs in 19 second(s)\n") == "915942"
    assert report.inputs_tried("") == "no"
