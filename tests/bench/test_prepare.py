"""Getting the bench's peers: what cannot be had is named, and no error unless it is required."""

from __future__ import annotations

import pytest

from bench import envoy, prepare
from bench.process import ProgramError


def unreachable() -> None:
    message = "the index cannot be reached"
    raise ProgramError(message)


@pytest.mark.parametrize("required, code", [("0", 0), ("1", 1)])
def test_a_peer_that_cannot_be_had_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, required: str, code: int
) -> None:
    monkeypatch.setattr(prepare, "PEERS", {"one": lambda: None, "another": unreachable})
    monkeypatch.setenv("REQUIRE_TOOLS", required)

    assert prepare.main() == code
    assert capsys.readouterr().out == (
        "one … ready\nanother … cannot be had:\nthe index cannot be reached\n"
    )


def test_an_envoy_of_ones_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY", "/opt/envoy")

    assert envoy.program() == "/opt/envoy"
    prepare.PEERS["Envoy"]()


def test_a_program_that_is_no_envoy_is_named() -> None:
    with pytest.raises(ProgramError, match="cannot run /not/there"):
        envoy.build_of("/not/there")
