"""Prompts of a JSONL file, answered together by the engine, as JSONL on standard output.

A line is an object with a `prompt` (a text), or `messages` of a chat, and any of `custom_id` and
`PARAMETERS`, which otherwise are the command's. A line that cannot be answered gets an `error`, the
others their answers. Lines are read as the engine has room for them.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.outputs import RequestOutput
from mimo_v2_flash.generation.generation_config import SAMPLING
from mimo_v2_flash.json_object import parse_json_object, shorten
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import Detokenizer

__all__ = ["PARAMETERS", "PromptFile", "has_error", "in_order"]

PARAMETERS = (*SAMPLING, "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids", "seed", "n")
Entry = dict[str, Any]


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a JSONL file.

    Attributes
    ----------
    file
        The file; "-" is standard input. Blank lines are no prompts.
    tokenizer
        From `load_tokenizer`.
    defaults
        `SamplingParams` of lines that say nothing else.
    chat
        Whether a `prompt` is a message to answer, not a text to continue.
    """

    file: Path
    tokenizer: Any
    defaults: Mapping[str, Any]
    chat: bool = False

    def answer(self, engine: Engine, *, ahead: int) -> Iterator[Entry]:
        """Yield a line of the output for each prompt, as the engine answers it.

        At most `ahead` prompts are read and not answered.

        Raises
        ------
        ValueError
            If there is no prompt.
        """
        heads: dict[int, Entry] = {}
        lines = enumerate(self._lines())

        def refill() -> Iterator[Entry]:
            """Submit prompts as long as there is room; yield the errors of others."""
            while len(heads) < ahead and (following := next(lines, None)):
                index, (number, line) = following
                head: Entry = {"index": index}
                try:
                    heads[self._submit(engine, line, head)] = head
                except ValueError as error:
                    yield head | {"error": f"line {number}: {error}"}

        yield from refill()
        for id_, output in engine.as_completed():
            yield heads.pop(id_) | self._answers(output)
            yield from refill()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not blank, with their numbers from 1 on."""
        is_empty = True
        is_stdin = str(self.file) == "-"
        with nullcontext(sys.stdin.buffer) if is_stdin else self.file.open("rb") as source:
            for number, line in enumerate(source, start=1):
                if line.strip():
                    is_empty = False
                    yield number, line
        if is_empty:
            raise ValueError(f"{self.file}: there is no prompt")

    def _submit(self, engine: Engine, line: bytes, head: Entry) -> int:
        """Submit the prompt of a line, and return the request's id; `head` gets what names it."""
        entry = parse_json_object(line.strip())
        if (custom_id := entry.pop("custom_id", None)) is not None:
            if not isinstance(custom_id, str):
                raise ValueError(f"custom_id is {shorten(custom_id)}, allowed is a text")
            custom_id.encode()  # a lone surrogate could not be written
            head["custom_id"] = custom_id
        text, messages = (entry.pop(name, None) for name in ("prompt", "messages"))
        is_text = isinstance(text, str) and messages is None
        if not is_text and (text is not None or not isinstance(messages, list)):
            raise ValueError(
                'expected "prompt", a text, or "messages", objects of role and content'
            )
        if unknown := [key for key in entry if key not in PARAMETERS]:
            raise ValueError(f"{shorten(unknown[0])} is unknown; there are {', '.join(PARAMETERS)}")
        if self.chat and is_text:
            messages = [{"role": "user", "content": text}]
        params = SamplingParams(**{**self.defaults, **entry})
        tokens = prompt_tokens(self.tokenizer, text if messages is None else messages)
        head["prompt_tokens"] = len(tokens)
        return engine.submit(tokens, params)

    def _answers(self, output: RequestOutput) -> Entry:
        """Return what a line of the output says of its answers."""
        answers = [
            {
                "text": self._text(answer.tokens),
                "tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
            }
            | ({"error": str(answer.error)} if answer.error else {})
            for answer in output.answers
        ]
        first = answers[0] if len(answers) == 1 else {"answers": answers}
        return {**first, "seed": output.seed}

    def _text(self, tokens: list[int]) -> str:
        detokenizer = Detokenizer(self.tokenizer)
        return "".join([*map(detokenizer.push, tokens), detokenizer.end()])


def in_order(answers: Iterable[Entry]) -> Iterator[Entry]:
    """Yield answers by their index: each waits for those before it."""
    done: dict[int, Entry] = {}
    following = 0
    for answer in answers:
        done[answer["index"]] = answer
        while following in done:
            yield done.pop(following)
            following += 1


def has_error(answer: Entry) -> bool:
    """Return whether a prompt was not answered, or one of its answers ended with an error."""
    return any("error" in each for each in (answer, *answer.get("answers", ())))
