"""What pages under docs/ tell a reader to do: the blocks of a page, and a shell that follows them.

A page that is followed uses fenced blocks in this way:

- any other title (`yaml title="gateway.yaml"`): a file with this content;
- `sh`: commands, each of which must succeed;
- `console`: lines with `$ ` are commands, the lines below them what they print;
- `sh title="Terminal 1"`: a program in a terminal of its own, which goes on running;
- `text title="Terminal 1"` with `^C`: Ctrl-C in that terminal, until the program has ended.

What differs each time (keys, ids, times, ports) is not compared, and a key or an id that a page
shows stands for the real one in the commands below it. A line `…` stands for any lines, `…` within
a line for anything.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.support.namespaces import unshare
from tests.support.process import COMMAND, ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT: Final = Path(__file__).parents[2]
DOCS: Final = PROJECT / "docs"
_BLOCK: Final = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_TITLE: Final = re.compile(r'title="([^"]*)"')
_END: Final = "end of the block"
_READY: Final = re.compile(r'"event": "ready"|Receiving OTLP|Everything is ready')
_STANDS_FOR: Final = r"iapikey-[0-9A-Za-z]{20,}|\b\d{12,}\b"
_VARIES: Final = (
    rf"{_STANDS_FOR}|\b\d{{4}}-\d\d-\d\d(?:[ T]\d\d:\d\d:\d\d(?:\.\d+)?Z?)?|\b\d\d:\d\d:\d\d\b"
    r"|\b\d+(?:\.\d+)? ms\b|127\.0\.0\.1:\d{5}\b"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page (a path below the project), line, language, title and content."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield commands, each with the lines that it prints; no lines where none are shown."""
        if self.language != "console":
            yield self.text, []
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, *printed = part.rstrip().split("\n")
            while command.endswith("\\") and printed:
                command += "\n" + printed.pop(0)
            yield command, [line for line in printed if line.strip()]


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        title = _TITLE.search(match[3])
        inner = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        place = str(page.relative_to(PROJECT))
        found.append(Block(place, line, match[2], title[1] if title else "", inner))
    return found


def all_blocks() -> list[Block]:
    """Return the fenced blocks of all pages for users: README and docs/."""
    pages = [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [block for page in pages for block in blocks(page)]


@dataclass(slots=True)
class Reader:
    """Somebody who follows a page to the letter: in a folder and on a network of their own."""

    folder: Path
    shell: subprocess.Popen[str]
    terminals: dict[str, int] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path, path: tuple[Path, ...] = (), **variables: str) -> Self:
        """Open a shell with a network of its own: the loopback interface, with all ports free."""
        places = [COMMAND.parent, *path, *map(Path, ("/usr/sbin", "/usr/bin", "/sbin", "/bin"))]
        environment = {"HOME": str(folder), "PATH": ":".join(map(str, places)), "LC_ALL": "C.UTF-8"}
        up = "ip link set lo up && exec bash --norc"
        shell = subprocess.Popen(
            [*unshare(), "--net", "--kill-child", "--fork", "sh", "-c", up],
            cwd=folder,
            env=environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reader = cls(folder, shell)
        reader.run("set -m")  # each terminal's program becomes a group that Ctrl-C reaches
        return reader

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that was started."""
        if self.shell.poll() is None:
            for process in self.terminals.values():
                self.run(f"kill -TERM -{process}; wait {process}")
        self.shell.kill()
        self.shell.communicate()

    def follow(self, page: Path, skip: Mapping[str, str] | None = None) -> None:
        """Do what a page says, but for blocks with a title in `skip` (title: reason)."""
        for block in blocks(page):
            if not (skip and block.title in skip):
                self.do(block)

    def follow_until(self, page: Path, text: str, skip: Mapping[str, str]) -> None:
        """Do what a page says, up to the first block that contains `text`."""
        for block in blocks(page):
            if block.title not in skip:
                self.do(block)
            if text in block.text:
                return
        message = f"{page} does not say {text}"
        raise AssertionError(message)

    def do(self, block: Block) -> None:
        """Do what a block says. Raises `AssertionError` where something else happens."""
        if block.title.startswith("Terminal"):
            self._in_terminal(block)
        elif block.title:
            file = self.folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._with_real_values(block.text), encoding="utf-8")
        elif block.language in {"sh", "console"}:
            for command, printed in block.commands():
                code, lines = self.run(self._with_real_values(command))
                where = f"{block.place}: {command.strip()}\n" + "\n".join(lines)
                assert code == 0 or printed, f"ended with {code}: {where}"
                self._compare(printed, lines, where)
        else:
            shown_only = {"", "text", "yaml", "json"}  # tests/unit/test_docs_blocks.py checks them
            assert block.language in shown_only, f"{block.place}: nothing says what this is for"

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run a command in the shell; return its exit code and the lines that it prints."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{command.rstrip()}\nprintf '\\n{_END} %d\\n' $?\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(_END):
                return int(line.split()[-1]), [line for line in lines if line.strip()]
            lines.append(line.rstrip())
        raise ProgramError("the shell ended:\n" + "\n".join(lines))

    def _in_terminal(self, block: Block) -> None:
        if block.text.strip() == "^C":
            process = self.terminals.pop(block.title)
            self.run(f"kill -INT -{process}; wait {process}")
            return
        log = self.folder / f"{block.title}.log"
        log.unlink(missing_ok=True)
        start = f"{{\n{self._with_real_values(block.text)}}} > '{log}' 2>&1 &\necho $!"
        _, lines = self.run(start)
        process = int(lines[-1].split()[-1])
        self.terminals[block.title] = process
        alive = f"kill -0 {process}"
        waiting = f"until grep -qE '{_READY.pattern}' '{log}'; do {alive} || break; sleep 0.1; done"
        self.run(waiting)
        assert _READY.search(log.read_text()), f"{block.place} ended:\n{log.read_text()}"

    def _with_real_values(self, text: str) -> str:
        return re.sub(_STANDS_FOR, lambda found: self._real.get(found[0], found[0]), text)

    def _compare(self, shown: list[str], real: list[str], where: str) -> None:
        """Compare what a page shows with what is printed, and learn what its values stand for."""
        if not shown:
            return
        pattern = "\n".join(map(_pattern, shown)).replace("ANY LINES\n", r"(?:.*\n)*?")
        pattern = pattern.replace("\nANY LINES", r"(?:\n.*)*")
        match = re.fullmatch(pattern, "\n".join(" ".join(line.split()) for line in real))
        assert match, f"the page shows something else than {where}"
        for before, now in zip(_variables("\n".join(shown)), match.groups(), strict=True):
            self._real[before] = now


def _variables(text: str) -> list[str]:
    return [value for value in re.findall(_VARIES, text) if re.fullmatch(_STANDS_FOR, value)]


def _pattern(line: str) -> str:
    """Return a regular expression for a line that a page shows; a group for each key and id."""
    line = " ".join(line.split())
    if line == "…":
        return "ANY LINES"
    parts = re.split(rf"({_VARIES}|…)", line)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.escape(part)
        elif part == "…":
            parts[number] = ".*"
        else:
            stands = re.fullmatch(_STANDS_FOR, part)
            parts[number] = f"({_STANDS_FOR})" if stands else f"(?:{_VARIES})"
    return "".join(parts)
