"""Docstrings describe every parameter of public functions that have three or more of them."""

import ast
from collections.abc import Iterator

import pytest
from numpydoc.docscrape import NumpyDocString, Parameter

from tools.reference.api import PublicModule, public_modules

MANY = 3
OTHERWISE = {
    "cli": "options are described where they are declared",
    "cpu": "arguments of compiled loops are those of the kernel that they compute",
    "reference": "an oracle has its kernel's arguments",
}
FULL_FILES = {"mimo_v2_flash.convert.plan", "mimo_v2_flash.kv_cache"}  # of 350 lines
MODULES = [
    module
    for module in public_modules()
    if module.name.split(".")[1:2] not in [[name] for name in OTHERWISE]
    and module.name not in FULL_FILES
]


def parameters(function: ast.FunctionDef, skipped: int) -> list[str]:
    """Return the names of parameters, with the stars that they have."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args][skipped:] + arguments.kwonlyargs
    starred = (("*", arguments.vararg), ("**", arguments.kwarg))
    rest = [stars + argument.arg for stars, argument in starred if argument is not None]
    return [argument.arg for argument in named] + rest


INTERFACES = {  # methods that are described once: others of their name and parameters are alike
    (method.name, *parameters(method, 1))
    for module in public_modules()
    for node in module.tree.body
    if isinstance(node, ast.ClassDef)
    for method in node.body
    if isinstance(method, ast.FunctionDef) and "Parameters\n" in (ast.get_docstring(method) or "")
}


def methods(node: ast.ClassDef) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, docstring and parameters of a class and of its public methods."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        is_static = "staticmethod" in map(ast.unparse, method.decorator_list)
        names = parameters(method, 0 if is_static else 1)
        is_alike = "Parameters\n" not in (ast.get_docstring(method) or "") and (
            (method.name, *names) in INTERFACES
        )
        if method.name == "__init__":
            yield node.name, ast.get_docstring(node) or "", names
        elif not method.name.startswith("_") and not is_alike:
            yield f"{node.name}.{method.name}", ast.get_docstring(method) or "", names


def public(module: PublicModule) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, docstring and parameters of each public function, class and method."""
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in module.names:
            yield node.name, ast.get_docstring(node) or "", parameters(node, 0)
        elif isinstance(node, ast.ClassDef) and node.name in module.names:
            yield from methods(node)


def names_of(entries: list[Parameter]) -> set[str]:
    return {name for entry in entries for name in entry.name.split(", ")}


def faults(module: PublicModule) -> list[str]:
    """Return what is wrong, a line for each function."""
    lines = []
    for name, docstring, expected in public(module):
        if len(expected) < MANY:
            continue
        sections = NumpyDocString(docstring)
        entries = [*sections["Parameters"], *sections["Other Parameters"]]
        missing = set(expected) - names_of(entries) - names_of(sections["Attributes"])
        unknown = names_of(entries) - set(expected)
        without = {entry.name for entry in entries if not any(entry.desc)}
        if missing or unknown or without:
            lines.append(f"{name}: lacks {missing}, has {unknown}, says nothing of {without}")
    return lines


@pytest.mark.parametrize("module", MODULES, ids=[module.name for module in MODULES])
def test_every_parameter_is_described(module):
    assert faults(module) == []


def with_parameters(signature: str, *lines: str) -> str:
    """Return the source of a function whose docstring has these lines of parameters."""
    section = "\n".join(["Parameters", "----------", *lines])
    return f'def f({signature}): """Return.\n\n{section}\n"""'


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (with_parameters("a, b, *, c", "a, b : int", "    Two.", "c", "    Another."), 0),
        (with_parameters("*a, b, **c", "b", "    One.", "*a, **c", "    More."), 0),
        (with_parameters("a, b, *, c", "a, b : int", "    Two."), 1),
        (with_parameters("a, b", "a", "    One."), 0),
        (with_parameters("a, b, c", "a, b, c, d", "    Four."), 1),
        (with_parameters("a, b, c", "a, b, c"), 1),
        ('def f(a, b, c): """Return."""', 1),
        ('def _f(a, b, c): """Return."""', 0),
        ('class f:\n    def g(self, a, b, c): """Return."""', 1),
        ('class f:\n    def g(self, a, b): """Return."""', 0),
        ('class f:\n    """A."""\n    def __init__(self, a, b, c): pass', 1),
    ],
)
def test_what_is_not_described_is_a_fault(source, count):
    module = PublicModule("m", source, ast.parse(source), ("f",))
    assert len(faults(module)) == count
