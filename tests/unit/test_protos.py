"""The generated code is what `tools/protos.py` makes of `proto`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.protos.gateway.keys.v1 import key_feed_pb2
from tools.protos import GENERATED, PROTO, generate


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_generated_code_is_that_of_the_definitions(tmp_path: Path) -> None:
    generate(tmp_path / "protos")
    assert _files(tmp_path / "protos") == _files(GENERATED), "run tools/protos.py"


def test_each_definition_has_its_module() -> None:
    modules = {
        str(file.relative_to(GENERATED)).replace("_pb2.py", ".proto")
        for file in GENERATED.rglob("*_pb2.py")
    }
    assert modules == {str(file.relative_to(PROTO)) for file in PROTO.rglob("*.proto")}


@pytest.mark.parametrize("name", ["FollowRequest", "FollowResponse", "Key", "Changes"])
def test_no_message_has_a_place_for_a_key(name: str) -> None:
    fields = key_feed_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
    assert not {"key", "api_key", "secret", "token"} & set(fields)
