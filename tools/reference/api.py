"""Pages of the Python API: every public name of the package, from its signature and docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mimo_v2_flash

from .docstring import docstring_text
from .fields import field_list, fields_of

__all__ = ["PublicModule", "api_pages", "public_modules"]

PACKAGE = Path(mimo_v2_flash.__file__).parent
INDEX = """# Python

Every name that a module offers (`__all__`), by package. `mimo_v2_flash` itself exports what most
programs need.

:::{{toctree}}
:maxdepth: 1

{names}
:::
"""


class PublicModule(NamedTuple):
    """A module with its source, and the names that it defines and offers."""

    name: str
    source: str
    tree: ast.Module
    names: tuple[str, ...]


def public_modules() -> Iterator[PublicModule]:
    """Yield every module that offers a name, in the order of their names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        source = path.read_text()
        tree = ast.parse(source)
        names = _offered(tree)
        if names:
            yield PublicModule(".".join(parts).removesuffix(".__init__"), source, tree, names)


def api_pages() -> dict[str, str]:
    """Return a page for the package and each of its packages, and the index, by name."""
    pages: dict[str, list[str]] = {}
    for module in public_modules():
        parts = module.name.split(".")
        is_package = (PACKAGE.parent / Path(*parts)).is_dir()
        page = ".".join(parts[: 2 if is_package or len(parts) > 2 else 1])
        section = "".join(_section(module))
        if section:
            pages.setdefault(page, [f"# {page}\n\n"]).append(section)
    index = INDEX.format(names="\n".join(pages))
    return {"index": index} | {name: "".join(sections) for name, sections in pages.items()}


def _offered(tree: ast.Module) -> tuple[str, ...]:
    """Return the names of `__all__`."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return tuple(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return ()


def _section(module: PublicModule) -> Iterator[str]:
    """Yield the Markdown of a module: what it is, and its names in their order."""
    entries = list(_entries(module))
    is_package = (PACKAGE.parent / Path(*module.name.split("."))).is_dir()
    if not entries and not is_package:
        return
    yield f"## {module.name}\n\n{docstring_text(ast.get_docstring(module.tree) or '')}\n"
    if is_package:
        yield f"It exports {', '.join(f'`{name}`' for name in module.names)}.\n\n"
    yield from entries


def _entries(module: PublicModule) -> Iterator[str]:
    for node, following in zip(module.tree.body, [*module.tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef) and node.name in module.names:
            yield _function(node, module)
        elif isinstance(node, ast.ClassDef) and node.name in module.names:
            yield _class(node, module)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from _constant(node, following, module)


def _constant(
    node: ast.Assign | ast.AnnAssign, following: object, module: PublicModule
) -> Iterator[str]:
    """Yield a constant, which is documented by the string below it."""
    documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    text = docstring_text(str(following.value.value)) if documented else ""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for name in (part for target in targets for part in ast.walk(target)):
        if isinstance(name, ast.Name) and name.id in module.names:
            yield _directive("data", name.id, module, text)


def _function(node: ast.FunctionDef, module: PublicModule) -> str:
    signature = f"{node.name}({_arguments(node.args)}){_returned(node)}"
    return _directive("function", signature, module, docstring_text(ast.get_docstring(node) or ""))


def _class(node: ast.ClassDef, module: PublicModule) -> str:
    """Return a class: its docstring, its fields, and its public methods."""
    text = ast.get_docstring(node) or ""
    body = docstring_text(text)
    if "Attributes\n---" not in text and "Parameters\n---" not in text:
        body += field_list(fields_of(node, module.source))
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            body += _method(method, module)
    return _directive("class", f"{node.name}{_construction(node)}", module, body, colons=4)


def _construction(node: ast.ClassDef) -> str:
    """Return the arguments of a class, if it says them itself."""
    methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
    method = methods.get("__init__") or methods.get("__new__")
    return f"({_arguments(method.args, skipped=1)})" if method else ""


def _method(node: ast.FunctionDef, module: PublicModule) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    text = docstring_text(ast.get_docstring(node) or "")
    if decorators & {"property", "cached_property"}:
        return _directive("property", node.name, module, text)
    kinds = [f":{kind}:" for kind in ("classmethod", "staticmethod") if kind in decorators]
    arguments = _arguments(node.args, skipped=0 if ":staticmethod:" in kinds else 1)
    signature = f"{node.name}({arguments}){_returned(node)}"
    return _directive("method", signature, module, text, *kinds)


def _arguments(arguments: ast.arguments, skipped: int = 0) -> str:
    """Return arguments as they are written, without the first of a method."""
    parts = {name: getattr(arguments, name) for name in arguments._fields}
    return ast.unparse(ast.arguments(**parts | {"args": arguments.args[skipped:]}))


def _returned(node: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(node.returns)}" if node.returns else ""


def _directive(
    kind: str, signature: str, module: PublicModule, text: str, *options: str, colons: int = 3
) -> str:
    """Return the directive of Sphinx that describes an object."""
    fence = ":" * colons
    lines = [f"{fence}{{py:{kind}}} {signature}", *options]
    if kind not in {"method", "property"}:
        lines.append(f":module: {module.name}")
    return "\n".join([*lines, "", text.strip(), fence, "", ""])
