"""What mypyc compiles into something else than Python means is not written on the data path."""

from __future__ import annotations

import ast
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES: list[str] = runpy.run_path(str(ROOT / "setup.py"), run_name="listing")["sources"]()
TAKES_ALL_AT_ONCE = {"all", "any", "dict", "frozenset", "join", "list", "max", "min", "set"}
TAKES_ALL_AT_ONCE |= {"extend", "fromkeys", "next", "sorted", "sum", "tuple", "update"}


def parse(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text())


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_data_path_is_among_them() -> None:
    assert {"gateway/wire/hpack.py", "gateway/dataplane/exchange/exchange.py"} <= set(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_two_kinds_of_errors_have_two_names_in_a_function(source: str) -> None:
    """The first kind would be the variable's type, and the second a TypeError."""
    for function in functions(parse(source)):
        kinds = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                kinds[node.name].add(ast.unparse(node.type))
        assert not {name: kind for name, kind in kinds.items() if len(kind) > 1}, function.name


@pytest.mark.parametrize("source", SOURCES)
def test_no_generator_expression_is_iterated_over_later(source: str) -> None:
    """It would be a list, made at once: write a function with `yield`."""
    tree = parse(source)
    at_once = {
        id(argument)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and (getattr(call.func, "id", "") or getattr(call.func, "attr", "")) in TAKES_ALL_AT_ONCE
        for argument in call.args
    }
    others = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.GeneratorExp) and id(node) not in at_once
    ]
    assert not others
