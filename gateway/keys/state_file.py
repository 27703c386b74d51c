"""Files in which the gateway keeps for its next start what it knows: when one is to be trusted.

A file or a folder that another user has put in the gateway's place is refused: the one who made it
can change it. What root owns is trusted, as root can do anything: volumes of Kubernetes are root's.
Groups are not judged here, because Kubernetes gives volumes to a group (`fsGroup`).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

import structlog

_ROOT: Final = 0
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file."""

_log = structlog.get_logger("gateway.control")


class StateFileError(Exception):
    """The file cannot be used; the text says why."""


def make_private(file: BinaryIO, path: Path) -> None:
    """Give an own file that its group may use its mode 0600 back, with a warning.

    A volume of Kubernetes with `fsGroup` gets group permissions at each mount. What all users may
    use is refused, and so is what is not the gateway's own. Raises `StateFileError`.
    """
    status = os.fstat(file.fileno())
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IRWXO:
        msg = (
            "other users can read or write it; it must belong to the gateway's user, mode 0600:"
            " 'chmod 600' it if only you could reach it, else delete it"
        )
        raise StateFileError(msg)
    if not status.st_mode & stat.S_IRWXG:
        return
    try:
        os.fchmod(file.fileno(), 0o600)
    except OSError as error:
        msg = f"its group can use it, and its mode cannot be set to 0600 ({error.strerror})"
        raise StateFileError(msg) from error
    _log.warning(
        "a file of the gateway's could be used by its group; its mode is 0600 again"
        " (Kubernetes gives volumes with 'fsGroup' to the group at each mount)",
        file=str(path),
        mode=f"{stat.S_IMODE(status.st_mode):04o}",
    )


def open_state_file(path: Path, *, for_command: bool = False) -> BinaryIO:
    """Open a file that the gateway has written itself, to read it.

    It never is a symbolic link, a pipe or a device. Raises `OSError`, and `StateFileError` where it
    is one of these or another user's; a command that root types (`for_command`) reads every user's.
    """
    try:
        # Non-blocking: the opening of a pipe without a writer would never return.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        msg = "it is a symbolic link, which somebody else may have put there: delete it"
        raise StateFileError(msg) from error
    file = os.fdopen(descriptor, "rb")
    try:
        status = os.fstat(descriptor)
        _check_regular(status, "it ")
        if not for_command or os.geteuid() != _ROOT:
            _check_user(status)
    except BaseException:
        file.close()
        raise
    return file


def replace_state_file(path: Path, content: bytes) -> None:
    """Write a file anew, mode 0600, making its folder: it is there as a whole, or the old one is.

    Two that write at once do so in turn, or in different processes. Raises `OSError`,
    `StateFileError`.
    """
    make_state_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def make_state_folder(folder: Path) -> None:
    """Make a folder, mode 0700, unless it is there, and check it (`check_state_folder`).

    Raises `OSError`, `StateFileError`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_state_folder(folder)


def check_state_folder(folder: Path) -> None:
    """Refuse a folder, or a symbolic link to one, of another user; a missing one is all right.

    Raises `OSError`, and `StateFileError` that names the folder.
    """
    try:
        for status in (folder.lstat(), folder.stat()):  # systemd makes the folder a link of root's
            _check_user(status)
    except FileNotFoundError:
        return
    except StateFileError as error:
        msg = f"{folder}: {error}"
        raise StateFileError(msg) from error


def check_database(path: Path) -> None:
    """Refuse a SQLite file of another user, or what SQLite would read beside it.

    What is beside it may belong to a member of the group that may write the file itself. Raises
    `OSError`, and `StateFileError` that names the file.
    """
    target = path.resolve()  # as SQLite does before it opens what is beside
    try:
        status = path.stat()
        for each in (path.lstat(), status):
            _check_user(each)
        for suffix in _SIDE_FILES:
            _check_side_file(target.with_name(target.name + suffix), status)
    except StateFileError as error:
        msg = f"{path}: {error}"
        raise StateFileError(msg) from error


def _check_side_file(path: Path, database: os.stat_result) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    what = f"{path.name} beside it "
    _check_regular(status, what)
    if not database.st_mode & stat.S_IWGRP:
        _check_user(status, what)


def _check_regular(status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        msg = f"{what}is no regular file: delete it"
        raise StateFileError(msg)


def _check_user(status: os.stat_result, what: str = "it ") -> None:
    own = os.geteuid()
    if status.st_uid not in {own, _ROOT}:
        msg = (
            f"{what}belongs to another user (uid {status.st_uid}), who can change what is in it;"
            f" the gateway runs as uid {own}: if it is yours, give it to the gateway with"
            f" 'chown {own}', else delete it or choose another place (state_dir)"
        )
        raise StateFileError(msg)
