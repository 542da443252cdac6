"""Builds the training text of a work folder: documents, conversations, sources, and the check."""

import json
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import docstrings, python_docs, sentences
from .chat import Chat
from .docstrings import Function
from .mixture import held_out_chats, trained_chats

__all__ = ["build"]

SEED, QUESTIONS = 20260103, 1000
READINGS = 2  # of Python's documentation, for each of the docstrings
SHIPPED = Path(__file__).parents[2] / "examples" / "mimo-tiny" / "training" / "held_out.txt"
SEPARATOR = "\0"  # between documents; none contains it


def build(text: Path, work: Path, conversations: int) -> dict[str, Any]:
    """Write documents, conversations and their sources into `work`; return the counts.

    Parameters
    ----------
    text
        Folder of Python's documentation, `*.rst.txt`.
    work
        Folder to write train.txt, held_out.txt, conversations.jsonl, questions.jsonl and
        sources.json into.
    conversations
        Number of conversations to train on; none: only Python's documentation is read.
    """
    trained, held_out = python_docs.split(text)
    report: dict[str, Any] = {}
    if conversations:
        held_out.append(SHIPPED.read_text(encoding="utf-8"))
        forbidden = {each for document in held_out for each in sentences.sentences(document)}
        forbidden |= {s for each in sentences.standard_library() for s in sentences.sentences(each)}
        functions = _functions(forbidden)
        held_out = held_out[-1:]
        trained = READINGS * [sentences.without(each, forbidden) for each in trained]
        trained += docstrings.documents(functions)
        report = _write_chats(work, functions, trained, conversations, forbidden)
        _write_json(work / "sources.json", _sources(functions))
    (work / "train.txt").write_text(SEPARATOR.join(trained), encoding="utf-8")
    (work / "held_out.txt").write_text(SEPARATOR.join(held_out), encoding="utf-8")
    report |= {"documents": len(trained), "characters": sum(map(len, trained))}
    _write_json(work / "corpus.json", report)
    return report


def _functions(forbidden: set[str]) -> list[Function]:
    """Return all functions whose docstrings hold no forbidden sentence, each text once."""
    folder, unique = Path(sysconfig.get_path("purelib")), dict[str, Function]()
    for package in docstrings.PACKAGES:
        for each in docstrings.read_functions(_home(folder, package), package):
            if forbidden.isdisjoint(sentences.sentences(f"{each.text}\n\n{each.summary}")):
                unique.setdefault(each.text, each)
    return list(unique.values())


def _home(folder: Path, package: str) -> Path:
    """Return the folder that a package is installed in."""
    spec = find_spec(package)
    return Path(spec.origin).parents[1] if spec and spec.origin else folder


def _write_chats(
    work: Path, functions: list[Function], documents: list[str], count: int, forbidden: set[str]
) -> dict[str, Any]:
    described = [each for each in functions if each.summary and len(each.parameters) < 7]
    known = {word for document in documents for word in sentences.WORD.findall(document)}
    known |= {each.name for each in described if not each.is_held_out}
    unknown = [each for each in described if each.is_held_out and each.name not in known]
    chats = list(trained_chats([e for e in described if not e.is_held_out], count, SEED))
    questions = list(held_out_chats(unknown, QUESTIONS, SEED + 1))
    _write_lines(work / "conversations.jsonl", chats)
    _write_lines(work / "questions.jsonl", questions)
    texts = (each["content"] for chat in chats for each in chat.messages)
    return {
        "conversations": count,
        "functions": len(described) - len(unknown),
        "functions_held_out": len(unknown),
        "forbidden_sentences": len(forbidden),
        "forbidden_in_documents": sentences.count(documents, forbidden),
        "forbidden_in_conversations": sentences.count(texts, forbidden),
        "questions": _counts(questions),
    }


def _counts(chats: Iterable[Chat]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for chat in chats:
        for key in (chat.kind, *(["unseen tool"] if chat.is_unseen_tool else [])):
            counts[key] = counts.get(key, 0) + 1
    return counts


def _sources(functions: list[Function]) -> list[dict[str, Any]]:
    """Return the name, version, licence and size of each package."""
    return [dict(_source(package, functions)) for package in docstrings.PACKAGES]


def _source(package: str, functions: list[Function]) -> Iterator[tuple[str, Any]]:
    version, licence = docstrings.licence(package)
    texts = [each.text for each in functions if each.module.split(".")[0] == package]
    yield from (("package", package), ("version", version), ("licence", licence))
    yield from (("docstrings", len(texts)), ("characters", sum(map(len, texts))))


def _write_lines(file: Path, chats: Iterable[Chat]) -> None:
    lines = (json.dumps(each.as_json(), ensure_ascii=False) + "\n" for each in chats)
    file.write_text("".join(lines), encoding="utf-8")


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
