"""Answers as objects: the `openai` package's types where it is installed, else of equal shape."""

from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

__all__ = ["as_object"]

TYPES = {
    "chat.completion": ("openai.types.chat", "ChatCompletion"),
    "chat.completion.chunk": ("openai.types.chat", "ChatCompletionChunk"),
    "text_completion": ("openai.types", "Completion"),
}


def as_object(answer: dict[str, Any]) -> Any:
    """Return an answer, or a chunk of one, with attributes instead of keys."""
    try:
        kind = _openai_type(answer["object"])
    except ImportError:
        return _namespace(answer)
    return kind.model_construct(**answer)  # as the package does: a server's answer is not checked


@cache
def _openai_type(name: str) -> Any:
    module, attribute = TYPES[name]
    return getattr(import_module(module), attribute)


def _namespace(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _namespace(each) for key, each in value.items()})
    return [_namespace(each) for each in value] if isinstance(value, list) else value
