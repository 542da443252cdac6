"""The training text: documents as prose, held-out sides that share nothing, conversations."""

import json
import re
from random import Random

import pytest

from tools.corpus import build, docstrings, python_docs, sentences
from tools.corpus.docstrings import Function
from tools.corpus.mixture import held_out_chats, trained_chats
from tools.corpus.tool_schemas import TOOLS, draw_tool
from tools.corpus.values import Values, listed

PAGE = """:mod:`heapq` --- Queues
======================

.. module:: heapq
   :synopsis: Heaps.

.. versionadded:: 3.1
   See :func:`~heapq.merge` and :ref:`the *list* <more>`.

.. function:: heappush(heap, item)

   Push *item* onto ``heap[0]``::

      a * b * c
"""
PROSE = """heapq --- Queues

Version 3.1
   See heapq.merge and the list.

function heappush(heap, item)

   Push item onto heap[0]:

      a * b * c
"""
MODULE = '''"""A module."""


def area(width, height):
    """Return the area of a rectangle, in square metres. It is exact.

    More.
    """


class Shape:
    """A shape of any kind that has an area and a name."""

    def scale(self, factor): ...
'''
FUNCTIONS = [
    Function(f"make_{word}", "toys.maker", ("size", "colour")[: index % 3], f"Make a {word}.", "")
    for index, word in enumerate(("horse", "bear", "robot", "puzzle"))
]
KINDS = {"name", "person", "phrase", "identifier", "integer", "decimal", "date"}


def test_markup_is_read_as_prose():
    assert python_docs.prose(PAGE) == PROSE


def test_documents_are_split_by_name_alone(tmp_path):
    for index in range(100):
        (tmp_path / f"{index}.rst.txt").write_text(f"page {index}\n")
    train, held_out = python_docs.split(tmp_path)
    assert len(train) + len(held_out) == 100
    assert 0 < len(held_out) < 20
    with pytest.raises(ValueError, match=r"has no \*\.rst\.txt"):
        python_docs.split(tmp_path / "nowhere")


def test_functions_are_read_with_parameters_and_first_sentences(tmp_path):
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "shapes.py").write_text(MODULE)
    (tmp_path / "toys" / "broken.py").write_text("def :")
    area, shape = docstrings.read_functions(tmp_path, "toys")
    assert (area.signature, area.module) == ("area(width, height)", "toys.shapes")
    assert area.summary == "Return the area of a rectangle, in square metres."
    assert shape.summary == "A shape of any kind that has an area and a name."
    assert {docstrings.licence(package)[1] for package in docstrings.PACKAGES} - {""}


def test_a_held_out_function_is_in_no_document():
    functions = [Function(f"f{index}", "toys", (), "", f"text {index}") for index in range(200)]
    document = "\n".join(docstrings.documents(functions))
    for each in functions:
        assert (f"{each.signature}\n\n{each.text}\n" in document) != each.is_held_out


def test_paragraphs_with_forbidden_sentences_are_left_out():
    bad = "A man walked into the old house, and stayed there."
    text = f"First one.\n\nBefore it. {bad.upper()}\n\n\nLast one, of more words than there are."
    forbidden = set(sentences.sentences(bad))
    assert len(forbidden) == 1
    assert sentences.count([text], forbidden) == 1
    kept = sentences.without(text, forbidden)
    assert kept == "First one.\n\nLast one, of more words than there are."
    assert sentences.without(kept, forbidden) == kept
    assert not set(sentences.sentences("Seven words are not enough for this."))


@pytest.mark.parametrize("kind", sorted(KINDS | {"file"}))
def test_no_value_is_of_both_sides(kind):
    sides = [Values(Random(1), held_out) for held_out in (False, True)]
    trained, held_out = ({getattr(values, kind)() for _ in range(400)} for values in sides)
    assert min(len(trained), len(held_out)) > 50
    assert not trained & held_out


def test_items_are_told_as_a_sentence_has_them():
    assert [listed(items) for items in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_no_tool_is_of_both_sides():
    sides = [Values(Random(1), held_out) for held_out in (False, True)]
    trained, held_out = ({draw_tool(values).name for _ in range(500)} for values in sides)
    assert not trained & held_out
    written = [tool.is_held_out for tool in TOOLS]
    assert 0 < sum(written) < len(written)


def chats():
    return [*trained_chats(FUNCTIONS, 120, 1), *held_out_chats(FUNCTIONS, 120, 2)]


@pytest.mark.parametrize("chat", chats(), ids=lambda chat: chat.kind)
def test_a_conversation_is_whole(chat):
    last, names = chat.messages[-1], [tool["function"]["name"] for tool in chat.tools]
    assert last["role"] == "assistant"
    assert len(names) == len(set(names))
    assert (chat.form is None) == (chat.call is not None)
    thoughts = [
        each.get("reasoning_content") for each in chat.messages if each["role"] == last["role"]
    ]
    assert all(map(bool, thoughts)) == chat.thinks
    if chat.call is None:
        assert re.fullmatch(chat.form, last["content"])
        assert not re.fullmatch(chat.form, f"So: {last['content']}\n")
        assert chat.content == (None if chat.kind == "recall" else last["content"])
        return
    function = last["tool_calls"][0]["function"]
    assert chat.call == {"name": function["name"], "arguments": json.loads(function["arguments"])}
    (schema,) = [
        each["function"] for each in chat.tools if each["function"]["name"] == chat.call["name"]
    ]
    question = chat.messages[-2]["content"]
    for name, value in chat.call["arguments"].items():
        assert name in schema["parameters"]["properties"]
        assert (listed(value) if isinstance(value, list) else str(value)) in question


def test_a_part_of_what_is_held_out_has_unseen_tools():
    held_out = list(held_out_chats(FUNCTIONS, 800, 3))
    calls = [each for each in held_out if each.kind in {"call", "result"}]
    assert 0.15 < sum(each.is_unseen_tool for each in calls) / len(calls) < 0.35
    assert not any(each.is_unseen_tool for each in trained_chats(FUNCTIONS, 300, 4))


def test_no_called_value_is_trained():
    def values(side):
        calls = [each.call["arguments"] for each in side if each.call]
        drawn = [str(value) for call in calls for value in call.values() if str(value).istitle()]
        return {each for each in drawn if each.isalpha()}

    trained = values(trained_chats(FUNCTIONS, 2000, 5))
    held_out = values(held_out_chats(FUNCTIONS, 800, 6))
    languages = {"German", "French", "Spanish", "Finnish"}  # choices of a schema
    assert len(held_out - languages) > 20
    assert not (trained & held_out) - languages


def test_one_seed_makes_the_same_conversations():
    one, other = (list(trained_chats(FUNCTIONS, 50, 7)) for _ in range(2))
    assert one == other
    assert one != list(trained_chats(FUNCTIONS, 50, 8))


def test_documents_alone_are_written_without_conversations(tmp_path):
    for index in range(40):
        (tmp_path / f"{index}.rst.txt").write_text(f"page {index}\n")
    report = build.build(tmp_path, tmp_path, 0)
    texts = [(tmp_path / f"{name}.txt").read_text() for name in ("train", "held_out")]
    assert sum(len(text.split(build.SEPARATOR)) for text in texts) == 40
    assert report["documents"] == len(texts[0].split(build.SEPARATOR))
    assert not (tmp_path / "conversations.jsonl").exists()
