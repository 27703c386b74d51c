from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from gateway.control.admin.roles import Caller, Role
from gateway.control.admin.tokens import AdminTokens, TokenError, ensure_token_file, read_tokens
from tests.support.config import config_from


def test_only_the_configured_tokens_are_accepted() -> None:
    tokens = AdminTokens(
        [(Caller("alice", Role.READER), "first"), (Caller("bob", Role.KEY_MANAGER), "second")]
    )
    assert tokens.accept("first") == Caller("alice", Role.READER)
    assert tokens.accept("second") == Caller("bob", Role.KEY_MANAGER)
    for wrong in ("", "firs", "first ", "third", "\udcff"):
        assert tokens.accept(wrong) is None


def test_no_token_is_accepted_where_none_is_configured() -> None:
    assert AdminTokens([]).accept("") is None


def test_a_token_is_in_no_repr() -> None:
    tokens = AdminTokens([(Caller("name", Role.READER), "canary")])
    assert "canary" not in repr(tokens) + repr(vars(tokens))


def test_the_first_start_makes_a_token_that_only_the_owner_reads(tmp_path: Path) -> None:
    token, path = ensure_token_file(tmp_path / "state")
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_later_starts_find_the_same_token(tmp_path: Path) -> None:
    assert ensure_token_file(tmp_path) == ensure_token_file(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["admin-token"]


def test_two_gateways_that_start_at_once_end_with_one_token(tmp_path: Path) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(ensure_token_file(tmp_path)[0])

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    _, path = ensure_token_file(tmp_path)
    path.chmod(0o604)
    with pytest.raises(TokenError, match="chmod 600"):
        ensure_token_file(tmp_path)


def test_a_file_that_a_volume_gave_to_its_group_is_used_and_private_again(tmp_path: Path) -> None:
    token, path = ensure_token_file(tmp_path)
    path.chmod(0o660)
    assert ensure_token_file(tmp_path) == (token, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    path.touch(0o600)
    with pytest.raises(TokenError, match="is empty: delete it"):
        ensure_token_file(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenError, match=r"set state_dir to another one, or set admin\.tokens"):
        ensure_token_file(tmp_path / "file" / "state")


def test_tokens_come_from_the_configuration_where_it_has_some(tmp_path: Path) -> None:
    tokens = read_tokens(config_from(tmp_path, {"admin": {"tokens": ["one", "two"]}}))
    assert tokens.accept("one")
    assert tokens.accept("two")
    assert not (tmp_path / "state").exists()


def test_a_token_is_made_where_none_is_configured(tmp_path: Path) -> None:
    tokens = read_tokens(config_from(tmp_path))
    assert tokens.accept((tmp_path / "state" / "admin-token").read_text().strip())
