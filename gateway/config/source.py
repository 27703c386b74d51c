"""Reads a YAML file, overrides and the environment into one tree of plain values.

It does not know which settings exist. It records the line of each value, and which values came from
the environment or from files, because those may be secrets and are never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Final, TypeAlias

import yaml

from gateway.config.problems import ConfigProblem, Path, path_text

Value: TypeAlias = object
"""Any YAML value: mappings with text keys, lists, text, numbers, booleans, null."""

_EXPRESSION: Final = re.compile(r"\$?\$\{([^{}]*)\}")
_ENV: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.DOTALL)
_UNREADABLE: Final = ArithmeticError, AttributeError, LookupError, TypeError, ValueError
"""What PyYAML raises for a value that is none of its type, such as `!!int x` or 2026-02-30."""
_OCTAL: Final = re.compile(r"[-+]?0[0-7_]+")
_STEP: Final = re.compile(r'\.?([A-Za-z0-9_-]+)|\[(\d+)\]|\["([^"]*)"\]')


@dataclass(slots=True)
class Document:
    """The tree as it was written, with what error messages need."""

    tree: dict[str, Value] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    opaque: set[Path] = field(default_factory=set)
    """Where values came from `${…}`: possibly secrets."""
    problems: list[ConfigProblem] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    """Paths with errors: their values are not used."""
    overridden: set[Path] = field(default_factory=set)
    """Paths that `--set` wrote: they have no line."""
    is_file_empty: bool = False
    """Whether the file has no settings at all: nothing, comments, `null`, `{}`."""

    def line_of(self, path: Path) -> int | None:
        """Return the line of a value, or of the nearest mapping around it that is in the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return None
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def add(self, path: Path, message: str) -> None:
        """Add an error in the value at `path`."""
        self.broken.add(path)
        self.problems.append(ConfigProblem(path_text(path), message, self.line_of(path)))


def read(file: FsPath | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Document:
    """Read `file` (none: an empty tree), apply overrides, then replace every `${…}`.

    Relative paths in `${file:…}` are relative to the file's directory. Everything that cannot be
    read or parsed is added to the document's problems.
    """
    document = Document()
    if file is not None:
        _read_file(file, document)
    for override in overrides:
        _apply_override(override, document)
    folder = file.parent if file is not None else FsPath()
    _Interpolation(document, folder, environ).replace_all()
    return document


def _read_file(file: FsPath, document: Document) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        document.problems.append(
            ConfigProblem("", f"{file} is not UTF-8 text: it must be a YAML file")
        )
        return
    except OSError as error:
        reason = (error.strerror or "error").lower()
        document.problems.append(
            ConfigProblem("", f"{file} cannot be read ({reason}): check --config")
        )
        return
    tree = _parse(text, document)
    document.is_file_empty = not tree and not document.problems
    if isinstance(tree, dict):
        document.tree = tree
    elif tree is not None:
        document.problems.append(
            ConfigProblem(
                "", "the file is not a mapping: start it with settings such as 'listen:'", 1
            )
        )


def _parse(text: str, document: Document) -> Value:
    """Parse YAML; syntax errors are added with PyYAML's text and line."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        written_on = text.count("\n", 0, error.position) + 1
        message = f"this is not valid YAML: the character U+{error.character:04X} is not allowed"
        document.problems.append(ConfigProblem("", message, written_on))
        return None
    try:
        node = loader.get_single_node()
        return _Builder(loader, document).build((), node) if node is not None else None
    except RecursionError:
        document.problems.append(
            ConfigProblem("", "the file is nested endlessly: an alias contains itself")
        )
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        line = mark.line + 1 if mark is not None else None
        document.problems.append(ConfigProblem("", f"this is not valid YAML: {problem}", line))
        return None
    finally:
        loader.dispose()


class _Builder:
    """Turns YAML nodes into plain values and records their lines."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._merged: dict[int, int] = {}
        """Mapping nodes (by identity: an alias occurs again) → entries that `<<` put first."""

    def build(self, path: Path, node: yaml.Node) -> Value:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(path, node)
        if isinstance(node, yaml.SequenceNode):
            return [self.build((*path, place), item) for place, item in enumerate(node.value)]
        if misread := _misread(node):  # the value is not repeated: it may be a secret
            self._document.add(path, misread)
            return None
        try:
            value: Value = self._loader.construct_object(node, deep=True)
        except _UNREADABLE:
            self._document.add(path, "this is no value of its type: put it in quotes")
            return None
        return value

    def _mapping(self, path: Path, node: yaml.MappingNode) -> dict[str, Value]:
        merged = self._merge(node)
        result = {
            str(key.value): self.build((*path, str(key.value)), value)
            for key, value in node.value[:merged]
        }
        own: set[str] = set()
        for key_node, value_node in node.value[merged:]:
            key = str(key_node.value)
            where = (*path, key)
            line = key_node.start_mark.line + 1
            if key in own:
                first = self._document.lines[where]
                message = f"is set twice, first on line {first}: remove one"
                self._document.problems.append(ConfigProblem(path_text(where), message, line))
                continue
            own.add(key)
            self._document.lines[where] = line
            result[key] = self.build(where, value_node)
        return result

    def _merge(self, node: yaml.MappingNode) -> int:
        """Resolve `<<`; return how many entries came from it. Own entries come after and win."""
        if id(node) not in self._merged:
            own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            self._loader.flatten_mapping(node)
            self._merged[id(node)] = len(node.value) - len(own)
        return self._merged[id(node)]


def _misread(node: yaml.Node) -> str:
    """Say which number YAML 1.1 does not read as people mean it: 010 is 8, and 1:30 is 90."""
    if node.tag != "tag:yaml.org,2002:int" or not isinstance(node.value, str):
        return ""
    if ":" in node.value:
        return "YAML reads digits with a colon as a number of base 60: put them in quotes"
    if _OCTAL.fullmatch(node.value):
        return (
            "YAML reads a number that begins with 0 as octal: leave the 0 out, or put it in quotes"
        )
    return ""


def _apply_override(text: str, document: Document) -> None:
    """Set one value (`limits.max_body=8MiB`, `listen[0].address=…`); the right side is YAML."""
    written, equals, right = text.partition("=")
    path = _parse_path(written.strip())
    if not equals or path is None:
        message = "write --set PATH=VALUE, such as --set limits.max_body=8MiB"
        document.problems.append(ConfigProblem(f"--set {written}" if equals else "--set", message))
        return
    scratch = Document()
    value = _parse(right, scratch)
    if scratch.problems:
        message = f"--set: the value is not valid YAML: {scratch.problems[0].message}"
        document.problems.append(ConfigProblem(path_text(path), message))
        return
    document.overridden.add(path)
    problem = _set(document.tree, path, value)
    if problem:
        document.problems.append(ConfigProblem(path_text(path), f"--set: {problem}"))


def _parse_path(text: str) -> Path | None:
    """Split `listen[0].address` or `listen.0.address` into its steps; None if it is not a path."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            return None
        word, index, quoted = match.groups()
        if word is not None and word.isdigit():
            steps.append(int(word))
        else:
            steps.append(int(index) if index is not None else word if word is not None else quoted)
        position = match.end()
    return tuple(steps) if steps and isinstance(steps[0], str) else None


def _set(tree: dict[str, Value], path: Path, value: Value) -> str | None:
    """Set `value` at `path`, creating mappings and list items; return why that is not possible."""
    here: Value = tree
    for depth, step in enumerate(path, start=1):
        fresh = value if depth == len(path) else _container_for(path[depth])
        if isinstance(here, dict) and isinstance(step, str):
            if depth == len(path) or here.get(step) is None:
                here[step] = fresh
            here = here[step]
        elif isinstance(here, list) and isinstance(step, int) and step <= len(here):
            here[step : step + 1] = [fresh if depth == len(path) else (*here, fresh)[step]]
            here = here[step]
        else:
            return _cannot_set(path[: depth - 1], here, step)
    return None


def _container_for(step: str | int) -> Value:
    return [] if isinstance(step, int) else {}


def _cannot_set(path: Path, here: Value, step: str | int) -> str:
    where = path_text(path)
    if isinstance(here, list):
        return f"{where} is a list of {len(here)}: use {where}[0] to {where}[{len(here)}]"
    expected = "list" if isinstance(step, int) else "mapping"
    return f"{where} is not a {expected}: set the whole value of {where}"


_NEEDS_A_VALUE: Final = {"labels"}
"""Without a value: an error. A caller of the admin API without labels may do more, not less."""


class _Interpolation:
    """Replaces `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}`; `$${` stands for `${`."""

    def __init__(self, document: Document, folder: FsPath, environ: Mapping[str, str]) -> None:
        self._document = document
        self._folder = folder
        self._environ = environ

    def replace_all(self) -> None:
        self._document.tree = self._mapping((), self._document.tree)

    def _mapping(self, path: Path, tree: Mapping[str, Value]) -> dict[str, Value]:
        """Resolve a mapping; keys without a value count as absent, but for `_NEEDS_A_VALUE`."""
        return {
            key: self._value((*path, key), item)
            for key, item in tree.items()
            if item is not None or (path[:1] == ("admin",) and key in _NEEDS_A_VALUE)
        }

    def _value(self, path: Path, value: Value) -> Value:
        if isinstance(value, dict):
            return self._mapping(path, value)
        if isinstance(value, list):
            return [self._value((*path, place), item) for place, item in enumerate(value)]
        return self._text(path, value) if isinstance(value, str) and "${" in value else value

    def _text(self, path: Path, text: str) -> str:
        self._document.opaque.add(path)
        if "${" in _EXPRESSION.sub("", text):
            self._document.add(path, "a '${' has no '}', or is inside another one: close it")
            return text
        return _EXPRESSION.sub(lambda match: self._replace(path, match), text)

    def _replace(self, path: Path, match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        expression = match[1]
        if env := _ENV.fullmatch(expression):
            return self._env(path, env[1], env[3])
        if expression.startswith("file:"):
            return self._file(path, expression.removeprefix("file:"))
        message = (
            "'${…}' accepts env:NAME, env:NAME:-default or file:PATH: write ${env:NAME}, "
            "or $${ for a literal '${'"
        )
        self._document.add(path, message)
        return ""

    def _env(self, path: Path, name: str, default: str | None) -> str:
        if value := self._environ.get(name):
            return value
        if default is not None:
            return default
        if name not in self._environ:
            message = (
                f"the environment variable {name} is not set: set it, or use "
                f"${{env:{name}:-default}}"
            )
            self._document.add(path, message)
        return ""

    def _file(self, path: Path, name: str) -> str:
        file = self._folder / name
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            self._document.add(path, f"{file} is not UTF-8 text")
        except OSError as error:
            reason = (error.strerror or "error").lower()
            self._document.add(
                path, f"{file} cannot be read ({reason}): check path and permissions"
            )
        return ""
