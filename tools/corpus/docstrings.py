"""Functions of installed packages with their docstrings, read from the sources and not imported."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from .python_docs import is_held_out

__all__ = ["PACKAGES", "Function", "documents", "licence", "read_functions"]

PACKAGES = (  # of the project's extras, whose licences allow it
    *("click", "fastapi", "httpx", "huggingface_hub", "jinja2", "matplotlib", "mpmath"),
    *("networkx", "numpy", "openai", "packaging", "prompt_toolkit", "pydantic", "pygments"),
    *("requests", "rich", "safetensors", "starlette", "sympy", "tokenizers", "torch"),
    *("transformers", "typer", "urllib3", "uvicorn"),
)
SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,'()/-]{20,140}\.(?=\s|$)")
LARGEST = 800_000  # characters of a package
HELD_OUT = 24  # one name in so many is held out


@dataclass(frozen=True)
class Function:
    """A documented function.

    Attributes
    ----------
    name
        Its name, without the module.
    module
        Its module.
    parameters
        Names of its parameters.
    summary
        The first sentence of its docstring.
    text
        The whole docstring.
    """

    name: str
    module: str
    parameters: tuple[str, ...]
    summary: str
    text: str

    @property
    def is_held_out(self) -> bool:
        """Whether no function of this name may be trained on."""
        return is_held_out(self.name, HELD_OUT)

    @property
    def signature(self) -> str:
        """The function as it is called."""
        return f"{self.name}({', '.join(self.parameters)})"


def read_functions(folder: Path, package: str) -> Iterator[Function]:
    """Yield the functions and classes of a package that have a docstring, file by file."""
    for file in sorted((folder / package).rglob("*.py")):
        if "test" in file.as_posix().removeprefix(folder.as_posix()):
            continue
        module = file.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                yield _function(node, module.removesuffix(".__init__"))


def _function(node: ast.FunctionDef | ast.ClassDef, module: str) -> Function:
    text = ast.get_docstring(node) or ""
    arguments = node.args.args if isinstance(node, ast.FunctionDef) else []
    names = tuple(each.arg for each in arguments if each.arg not in {"self", "cls"})
    match = SENTENCE.match(" ".join(text.split("\n\n")[0].split()))
    return Function(node.name, module, names, match[0] if match else "", text)


def documents(functions: list[Function]) -> list[str]:
    """Return the docstrings of modules as documents, without those that are held out.

    No package has more than `LARGEST` characters; which modules it has then, a hash decides.
    """
    by_module: dict[str, list[str]] = {}
    for each in functions:
        if not each.is_held_out:
            by_module.setdefault(each.module, []).append(f"{each.signature}\n\n{each.text}")
    room: dict[str, int] = {}
    kept = []
    for module in sorted(by_module, key=lambda name: sha256(name.encode()).digest()):
        package, text = (
            module.split(".")[0],
            f"{module}\n\n" + "\n\n".join(by_module[module]) + "\n",
        )
        if len(text) <= room.setdefault(package, LARGEST):
            room[package] -= len(text)
            kept.append(text)
    return kept


def licence(package: str) -> tuple[str, str]:
    """Return the version and the licence of an installed package, as its metadata names it."""
    record = metadata.metadata(package)
    classifiers = [
        each.rsplit(" :: ", 1)[-1]
        for each in record.get_all("Classifier", [])
        if each.startswith("License :: ")
    ]
    name = record.get("License-Expression") or ", ".join(classifiers) or record.get("License") or ""
    return record["Version"], " ".join(name.split())[:80]
