"""The measures of a checkpoint's answers: each fails where the answer does."""

import json

import pytest

from tests.support.chat_text import SHIPPED
from tools.corpus import chat
from tools.train import quality
from tools.train.quality import Answer, judge, measure

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "clock")]
CALL = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}


def question(**changes):
    made = {
        "kind": "call",
        "messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant"}],
        "form": None,
        "content": None,
        "call": CALL,
        "tools": TOOLS,
        "thinks": False,
        "is_unseen_tool": False,
    }
    return made | changes


def called(name="weather", arguments=CALL["arguments"], **fields):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Answer(None, calls=((name, text),), **{"finish_reason": "tool_calls"} | fields)


LIST = "- a\n- b"
TEXT = {"kind": "list", "form": chat.LIST, "content": LIST, "call": None, "tools": []}
WRONG = [  # a question, a wrong answer, and the measures that it fails
    ({}, called(finish_reason="length"), {"ends"}),
    ({}, called(reasoning="why"), {"thinking_inside"}),
    ({"thinks": True}, called(), {"thinking_inside"}),
    ({}, called(name="clock"), {"right_tool", "right_values"}),
    ({}, called(arguments={"city": "Oslo", "days": "3"}), {"right_values"}),
    ({}, called(arguments={"city": "Oslo"}), {"right_values"}),
    ({}, called(arguments='{"city": "Os'), {"taught_form", "right_tool", "right_values"}),
    ({}, called(arguments="[1]"), {"taught_form", "right_tool", "right_values"}),
    ({}, Answer("It rains."), {"taught_form", "right_tool", "right_values"}),
    (TEXT, Answer("- a\n- b\n- c"), {"right_content"}),
    (TEXT, Answer("- a\nb"), {"taught_form", "right_content"}),
    (TEXT | {"content": None}, Answer("a"), {"taught_form"}),
    (TEXT, Answer(None), {"taught_form", "right_content"}),
    (TEXT, Answer(LIST, finish_reason="length"), {"ends"}),
    (TEXT, Answer(f"</think>{LIST}"), {"thinking_inside", "taught_form", "right_content"}),
    (TEXT | {"tools": TOOLS}, called(), {"taught_form", "right_content"}),
]


@pytest.mark.parametrize(("changes", "answer", "failed"), WRONG)
def test_each_measure_fails_where_the_answer_does(changes, answer, failed):
    verdict = judge(question(**changes), answer)
    assert {name for name, value in verdict.items() if not value} == failed


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, called()),
        ({"thinks": True}, called(reasoning="why")),
        (TEXT, Answer(LIST)),
        (TEXT | {"content": None}, Answer("- c")),
        (TEXT | {"tools": TOOLS}, Answer(LIST)),
    ],
)
def test_right_answers_fail_nothing(changes, answer):
    assert all(judge(question(**changes), answer).values())


def test_shares_and_confusion_are_counted():
    text = question(**TEXT, is_unseen_tool=False) | {"tools": TOOLS, "kind": "no call"}
    unseen = question(is_unseen_tool=True)
    questions = [question(), question(), unseen, text, text]
    answers = [called(), called(name="clock"), Answer("No."), Answer("- a\n- b"), called()]
    figures = measure(questions, answers)
    assert figures["all"]["right_tool"] == pytest.approx(1 / 3)
    assert figures["all"]["taught_form"] == pytest.approx(3 / 5)
    assert figures["unseen_tools"]["right_tool"] == 0
    assert figures["by_kind"]["no call"] == {
        "ends": 1.0,
        "thinking_inside": 1.0,
        "taught_form": 0.5,
        "right_content": 0.5,
    }
    assert figures["confusion"] == {
        quality.NO_CALL: {"no call": 1, "other call": 1},
        "weather": {"right call": 1, "other call": 1, "no call": 1},
    }
    assert {*figures["targets"], "right_content"} == set(figures["all"])


def test_a_checkpoint_is_asked_through_the_engine():
    """mimo-tiny was taught no conversation: its answers are judged, and are wrong."""
    questions = [question(**TEXT), question(thinks=True)]
    answers = quality.answers_of(SHIPPED, questions)
    assert [each.finish_reason for each in answers] == ["length", "length"]
    assert answers[0].content
    assert answers[1].reasoning
    figures = measure(questions, answers)
    assert figures["all"]["taught_form"] == figures["all"]["right_tool"] == 0


def test_transcripts_show_question_and_answer():
    text = quality.transcripts([question()], [called(reasoning="why")])
    assert text.splitlines()[:2] == ["user: Weather?", "model thinks: why"]
    assert "Oslo" in text
