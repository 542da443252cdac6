"""What a checkpoint does with held-out questions, greedily, through this project's engine.

python -m tools.train.quality --model examples/mimo-small --questions work/questions.jsonl
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mimo_v2_flash.runner import Runner, Which

from .text_quality import write

__all__ = ["Answer", "answers_of", "judge", "measure"]

MAX_TOKENS = 200
NO_CALL = "(no call)"
TRANSCRIPTS, SEED = 3, 20260104
TARGETS = {
    "ends": 0.98,
    "taught_form": 0.95,
    "right_tool": 0.90,
    "right_values": 0.70,
    "thinking_inside": 0.99,
}


@dataclass(frozen=True)
class Answer:
    """A parsed answer.

    Attributes
    ----------
    content, reasoning
        Text and thinking; None if there is none.
    calls
        Names and arguments (JSON) of its calls.
    finish_reason
        OpenAI's: "stop" and "tool_calls" if the model ended by itself.
    """

    content: str | None
    reasoning: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str = "stop"

    @property
    def called(self) -> str:
        """The function that it calls, or that it calls none."""
        return self.calls[0][0] if self.calls else NO_CALL

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments of its call; None if there is no call or they are no JSON object."""
        try:
            value = json.loads(self.calls[0][1]) if self.calls else None
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None


def judge(question: dict[str, Any], answer: Answer) -> dict[str, bool]:
    """Return what is right about an answer; a measure that does not apply is left out.

    Parameters
    ----------
    question
        A held-out conversation, as `tools.corpus.chat.Chat.as_json`.
    answer
        The answer to it.
    """
    verdict = {
        "ends": answer.finish_reason in {"stop", "tool_calls"},
        "thinking_inside": _thinks_inside(question, answer),
    }
    if question["call"] is None:
        matched = re.fullmatch(question["form"], answer.content or "")
        verdict["taught_form"] = bool(matched) and not answer.calls
        if question["content"] is not None:
            verdict["right_content"] = answer.content == question["content"] and not answer.calls
        return verdict
    call = question["call"]
    is_right = answer.called == call["name"] and len(answer.calls) == 1
    parsed = answer.arguments
    return verdict | {
        "taught_form": bool(answer.calls) and not answer.content and parsed is not None,
        "right_tool": is_right and parsed is not None,
        "right_values": is_right and parsed == call["arguments"],
    }


def _thinks_inside(question: dict[str, Any], answer: Answer) -> bool:
    """Return whether there is thinking where it is wanted, and none of it in the text."""
    stray = any(marker in (answer.content or "") for marker in ("<think>", "</think>"))
    return not stray and bool(answer.reasoning) == question["thinks"]


def measure(questions: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return shares of right answers, in all, by kind and of unseen tools, and the confusion."""
    verdicts = [judge(*each) for each in zip(questions, answers, strict=True)]
    pairs = list(zip(questions, verdicts, strict=True))
    kinds = sorted({each["kind"] for each in questions})
    confusion: dict[str, Counter[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        if question["tools"]:
            confusion.setdefault(_wanted(question), Counter())[_made(question, answer)] += 1
    return {
        "questions": len(questions),
        "targets": TARGETS,
        "all": _shares(verdicts),
        "unseen_tools": _shares(v for q, v in pairs if q["is_unseen_tool"]),
        "by_kind": {kind: _shares(v for q, v in pairs if q["kind"] == kind) for kind in kinds},
        "confusion": {tool: dict(counts) for tool, counts in sorted(confusion.items())},
    }


def _wanted(question: dict[str, Any]) -> str:
    return question["call"]["name"] if question["call"] else NO_CALL


def _made(question: dict[str, Any], answer: Answer) -> str:
    """Return what a call was, beside what it should be: the right one, another, or none."""
    if answer.called == NO_CALL:
        return "no call"
    return "right call" if answer.called == _wanted(question) else "other call"


def _shares(verdicts: Iterable[dict[str, bool]]) -> dict[str, float]:
    """Return the share of each measure among the answers that it applies to."""
    counts: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, value in verdict.items():
            counts.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in counts.items()}


def answers_of(model: Path, questions: Iterable[dict[str, Any]]) -> list[Answer]:
    """Return the greedy answers of a checkpoint, each generated by the engine and parsed."""
    with Runner(which=Which.Plain(model_id=model)) as runner:
        return [_answer(runner, each) for each in questions]


def _answer(runner: Any, question: dict[str, Any]) -> Answer:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS}
    if question["tools"]:
        fields["tools"] = question["tools"]
    choice = runner.chat_completion(
        question["messages"][:-1],
        chat_template_kwargs={"enable_thinking": question["thinks"]},
        **fields,
    ).choices[0]
    message = choice.message
    calls = [(each.function.name, each.function.arguments) for each in message.tool_calls or []]
    reasoning = getattr(message, "reasoning_content", None)
    return Answer(message.content, reasoning, tuple(calls), choice.finish_reason)


def transcripts(questions: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> str:
    """Return some questions and their answers as text, chosen by `SEED`."""
    chosen = Random(SEED).sample(range(len(questions)), min(TRANSCRIPTS, len(questions)))
    lines = []
    for index in chosen:
        for message in questions[index]["messages"][:-1]:
            calls = message.get("tool_calls", [])
            lines.append(f"{message['role']}: {message['content'] or calls[0]['function']}")
        answer = answers[index]
        parts = {"thinks": answer.reasoning, "calls": answer.calls, "answers": answer.content}
        lines += [f"model {name}: {part}" for name, part in parts.items() if part] + [""]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, and write quality.json and transcripts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="Folder of the checkpoint.")
    parser.add_argument("--questions", type=Path, required=True, help="Held-out conversations.")
    parser.add_argument("--most", type=int, default=400, help="Questions that are asked (400).")
    options = parser.parse_args()
    lines = options.questions.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines[: options.most]]
    answers = answers_of(options.model, questions)
    training = options.model / "training"
    training.mkdir(exist_ok=True)
    text_figures = training / "text_quality.json"
    text = json.loads(text_figures.read_text("utf-8")) if text_figures.exists() else {}
    figures = {"chat": measure(questions, answers), "text": text}
    write(figures, training / "quality.json")
    chosen = transcripts(questions, answers)
    (training / "transcripts.txt").write_text(chosen, encoding="utf-8")
    print(json.dumps(figures["chat"] | {"confusion": "in quality.json"}, indent=2))


if __name__ == "__main__":
    main()
