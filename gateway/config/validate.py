"""Validates a tree of plain values as a `Config` and finds all errors at once.

pydantic does not validate a section with errors any further. So invalid parts are removed and the
rest is validated again, until there is a whole `Config`. Then the checks between sections can run.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FsPath
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import Path, path_text
from gateway.config.source import Document, Value
from gateway.config.tree import Config
from gateway.config.values import expand

_MOST_SHOWN: Final = 60
_UNSHOWN: Final = {"urls", "receiver_keys", "gateway_key", "tokens", "headers", "stores", "token"}
"""Settings whose values may be secrets or contain one."""


class Validated(NamedTuple):
    """The valid parts. After errors, `config` lacks the invalid parts and is only for checks."""

    config: Config
    original: Callable[[Path], Path]
    """Returns the path that a value of `config` has in the tree as it was written."""


def validate(document: Document, folder: FsPath, state_dir: FsPath) -> Validated | None:
    """Validate the tree; errors are added to `document`.

    Relative paths start at `folder`; `state_dir` is the default state directory. Returns None if
    nothing useful remains.
    """
    while True:
        view = _View(document.tree, document.broken)
        tree = _with_places(view.tree, folder, state_dir)
        try:
            config = Config.model_validate(tree, context={"folder": folder})
            return Validated(config, view.original)
        except ValidationError as error:
            found = [_Violation(view, details) for details in error.errors(include_url=False)]
        fresh = [each for each in found if not _is_known(each.path, document.broken)]
        known = set(document.broken)
        for violation in fresh:
            document.add(violation.path, violation.message(document))
        document.broken |= {violation.culprit for violation in found}
        if () in document.broken or document.broken == known:
            return None


def _with_places(tree: dict[str, Value], folder: FsPath, state_dir: FsPath) -> dict[str, Value]:
    """Set the two defaults that depend on the machine: state directory and key store."""
    written = tree.get("state_dir")
    if isinstance(written, str):
        with contextlib.suppress(ValueError):  # validation finds it again, and reports it
            state_dir = expand(written, folder)
    keys = tree.get("keys", {})
    if isinstance(keys, dict):
        keys = {"stores": [f"sqlite://{state_dir / 'keys.db'}"], **keys}
    return {"state_dir": str(state_dir), **tree, "keys": keys}


class _View:
    """A tree without its broken parts that knows the original paths of its values."""

    def __init__(self, tree: Mapping[str, Value], broken: set[Path]) -> None:
        self._broken = broken
        self._origin: dict[Path, Path] = {}
        self.tree = self._mapping((), (), tree)

    def _copy(self, here: Path, origin: Path, value: Value) -> Value:
        if isinstance(value, Mapping):
            return self._mapping(here, origin, value)
        self._origin[here] = origin
        if isinstance(value, list):
            kept = [place for place in range(len(value)) if (*origin, place) not in self._broken]
            return [
                self._copy((*here, new), (*origin, old), value[old]) for new, old in enumerate(kept)
            ]
        return value

    def _mapping(self, here: Path, origin: Path, value: Mapping[str, Value]) -> dict[str, Value]:
        self._origin[here] = origin
        return {
            key: self._copy((*here, key), (*origin, key), item)
            for key, item in value.items()
            if (*origin, key) not in self._broken
        }

    def original(self, path: Path) -> Path:
        """Translate a path in this view into one of the whole tree."""
        existing = self.existing(path)
        return self._origin[existing] + path[len(existing) :]

    def existing(self, path: Path) -> Path:
        """Shorten `path` to what exists in this view."""
        while path not in self._origin:
            path = path[:-1]
        return path

    def culprit(self, path: Path) -> Path:
        """Return what to remove to fix the error at `path`: the value or its parent."""
        return self._origin[self.existing(path)]


class _Violation:
    """One of pydantic's errors, with its path in the tree as it was written."""

    def __init__(self, view: _View, details: ErrorDetails) -> None:
        place = tuple(step for step in details["loc"] if step != "[key]")
        existing = view.existing(place)
        is_beneath = details["type"] in {"missing", "extra_forbidden"}
        kept = place if is_beneath else existing
        self.path = view.original(kept)
        self.culprit = view.culprit(place)
        self._details = details

    def message(self, document: Document) -> str:
        kind = self._details["type"]
        if kind == "extra_forbidden":
            return _explain_unknown(self.path)
        text = _explain(kind, self._details.get("ctx", {}), self._details["msg"])
        return text + _shown(document, self.path)


def _is_known(path: Path, broken: set[Path]) -> bool:
    """Whether an error at `path` follows from a known one: inside it, or around it."""
    return any(path[: len(known)] == known or known[: len(path)] == path for known in broken)


_TEXTS: Final = {
    "missing": "is required",
    "string_type": "must be text: put it in quotes",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "list_type": "must be a list: write [a, b], or one '- item' per line",
    "dict_type": "must be a mapping: write 'name: value' lines below it",
    "model_type": "must be a mapping: write 'name: value' lines below it",
    "model_attributes_type": "must be a mapping: write 'name: value' lines below it",
    "too_short": "must have at least one item",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must not contain control characters",
}


def _explain(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _TEXTS:
        return _TEXTS[kind]
    if kind.startswith("int_"):
        return "must be a whole number"
    if kind == "literal_error":
        return f"must be {context['expected']}".replace("'", "")
    if kind in {"greater_than", "greater_than_equal"}:
        return f"must be {'above' if kind == 'greater_than' else 'at least'} {_bound(context)}"
    if kind in {"less_than", "less_than_equal"}:
        return f"must be {'below' if kind == 'less_than' else 'at most'} {_bound(context)}"
    return str(context["error"]) if kind == "value_error" else message


def _bound(context: Mapping[str, Any]) -> str:
    return next(str(context[name]) for name in ("gt", "ge", "lt", "le") if name in context)


def _shown(document: Document, path: Path) -> str:
    """Quote the value at `path`, unless it may be a secret."""
    value: Any = document.tree
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return ""
    if not isinstance(value, str | int | float) or value == "":
        return ""
    if path in document.opaque or _UNSHOWN & set(path):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f" (not {text!r})" if len(text) <= _MOST_SHOWN else ""


def _explain_unknown(path: Path) -> str:
    key, siblings = str(path[-1]), _keys_at(path[:-1])
    close = difflib.get_close_matches(key, siblings, n=1)
    if close:
        return f"unknown setting: did you mean {close[0]}?"
    elsewhere = [path_text(other) for other in _all_keys(Config, ()) if other[-1] == key]
    if elsewhere:
        return f"unknown setting: did you mean {' or '.join(elsewhere[:3])}?"
    return f"unknown setting: valid settings here are {', '.join(siblings)}"


def _keys_at(path: Path) -> list[str]:
    model: type[BaseModel] | None = Config
    for step in path:
        if isinstance(step, str) and model is not None:
            model = _model_in(model.model_fields[step].annotation)
    return list(model.model_fields) if model is not None else []


def _all_keys(model: type[BaseModel], path: Path) -> Iterator[Path]:
    for name, field in model.model_fields.items():
        yield (*path, name)
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _all_keys(inner, (*path, name))


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - an annotation is any object
    """Find the mapping's type in `list[Listener]`, `Backend | None` …."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model is not None), None)
