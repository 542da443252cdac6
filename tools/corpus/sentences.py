"""Sentences that must not be trained on: a filter of paragraphs, and a check of the text."""

import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["count", "sentences", "standard_library", "without"]

SHORTEST = 8  # words of a sentence that counts
END = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n")
WORD = re.compile(r"\w+")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of eight words or more, as words in lower case."""
    for part in END.split(text):
        words = WORD.findall(part.lower())
        if len(words) >= SHORTEST:
            yield " ".join(words)


def without(text: str, forbidden: set[str]) -> str:
    """Return a text without the paragraphs that hold a forbidden sentence."""
    paragraphs = re.split(r"(\n\s*\n)", text)
    kept = []
    for paragraph, space in zip(paragraphs[::2], [*paragraphs[1::2], ""], strict=True):
        if forbidden.isdisjoint(sentences(paragraph)):
            kept += [paragraph, space]
    return "".join(kept)


def count(texts: Iterable[str], forbidden: set[str]) -> int:
    """Return how many sentences of texts are forbidden."""
    return sum(each in forbidden for text in texts for each in sentences(text))


def standard_library() -> Iterator[str]:
    """Yield the docstrings of Python's standard library."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield ast.get_docstring(node) or ""
