"""Many prompts of a JSONL file, answered together by the engine, as JSONL on standard output.

A line is an object with a `prompt` (a text), or `messages` of a chat, and any of `max_tokens`,
`temperature`, `top_k`, `top_p`, `min_p`, the three penalties, `seed` and `n`, which otherwise are
the command's. Lines of the output have the line's `index`, from 0 on.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.request import RequestOutput
from mimo_v2_flash.generation.generation_config import SAMPLING
from mimo_v2_flash.json_object import parse_json_object, shorten
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.text.tokenizer import Detokenizer, prompt_tokens

__all__ = ["Prompt", "answer_prompts", "read_prompts", "run_prompt_file"]

PARAMETERS = (*SAMPLING, "max_tokens", "seed", "n")
LATENCIES = ("first_token_seconds", "token_seconds")


class Prompt(NamedTuple):
    """One line of a prompt file: its token ids, and how to answer them."""

    tokens: list[int]
    params: SamplingParams


def read_prompts(
    file: Path, tokenizer: Any, defaults: dict[str, Any], *, chat: bool = False
) -> list[Prompt]:
    """Return the prompts of a JSONL file; blank lines are none.

    Parameters
    ----------
    file
        The file; "-" is standard input.
    tokenizer
        From `load_tokenizer`.
    defaults
        `SamplingParams` of lines that say nothing else.
    chat
        Whether a `prompt` is a message to answer, not a text to continue.

    Raises
    ------
    ValueError
        If there is no prompt, or a line is damaged or has an unknown key; the line is named.
    """
    text = sys.stdin.read() if str(file) == "-" else file.read_bytes().decode(errors="replace")
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                prompts.append(_prompt(parse_json_object(line), tokenizer, defaults, chat=chat))
            except ValueError as error:
                raise ValueError(f"{file}: line {number}: {error}") from error
    if not prompts:
        raise ValueError(f"{file}: there is no prompt")
    return prompts


def _prompt(
    entry: dict[str, Any], tokenizer: Any, defaults: dict[str, Any], *, chat: bool
) -> Prompt:
    """Return the prompt of a line."""
    contents = [entry.pop(name) for name in ("prompt", "messages") if name in entry]
    if len(contents) != 1 or not _is_content(contents[0]):
        raise ValueError('expected "prompt", a text, or "messages", objects of role and content')
    if unknown := [key for key in entry if key not in PARAMETERS]:
        raise ValueError(f"{shorten(unknown[0])} is unknown; there are {', '.join(PARAMETERS)}")
    (content,) = contents
    if chat and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    return Prompt(prompt_tokens(tokenizer, content), SamplingParams(**defaults | entry))


def _is_content(content: Any) -> bool:
    is_chat = isinstance(content, list) and all(
        isinstance(message, dict)
        and {"role", "content"} <= message.keys()
        and all(isinstance(text, str) for text in message.values())
        for message in content
    )
    return isinstance(content, str) or (is_chat and len(content) > 0)


def answer_prompts(
    engine: Engine, tokenizer: Any, prompts: list[Prompt], *, ordered: bool
) -> Iterator[dict[str, Any]]:
    """Yield what the engine answers to each prompt, in order or as answers end.

    Raises
    ------
    ValueError
        If a prompt can never fit; it is named by its index.
    """
    index_of = {_submit(engine, index, prompt): index for index, prompt in enumerate(prompts)}
    done: dict[int, dict[str, Any]] = {}
    following = 0
    for id_, output in engine.as_completed():
        index = index_of[id_]
        done[index] = _line(index, len(prompts[index].tokens), output, tokenizer)
        if not ordered:
            yield done.pop(index)
        while following in done:
            yield done.pop(following)
            following += 1


def _submit(engine: Engine, index: int, prompt: Prompt) -> int:
    try:
        return engine.submit(prompt.tokens, prompt.params)
    except ValueError as error:
        raise ValueError(f"prompt {index}: {error}") from error


def _line(index: int, prompt: int, output: RequestOutput, tokenizer: Any) -> dict[str, Any]:
    """Return one line of the output."""
    answers = [
        {
            "text": _text(tokenizer, answer.tokens),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
        }
        | ({"error": str(answer.error)} if answer.error else {})
        for answer in output.answers
    ]
    first = answers[0] if len(answers) == 1 else {"answers": answers}
    return {"index": index, **first, "prompt_tokens": prompt, "seed": output.seed}


def _text(tokenizer: Any, tokens: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, tokens), detokenizer.end()])


def run_prompt_file(
    model: MiMoV2FlashModel,
    tokenizer: Any,
    file: Path,
    defaults: dict[str, Any],
    options: dict[str, Any],
    *,
    chat: bool,
    ordered: bool,
) -> dict[str, Any]:
    """Answer the prompts of a file on standard output; return answers, rates and latencies.

    `options` are those of the `Engine`. Rank 0 answers; other ranks follow, and return no answers.
    """
    prompts = read_prompts(file, tokenizer, defaults, chat=chat)
    longest = max(_longest(prompt, model.max_length) for prompt in prompts)
    lines, start = [], time.perf_counter()
    with Engine(model, max_length=longest, **options) as engine:
        if model.group.rank:
            engine.follow()
            prompts = []
        for line in answer_prompts(engine, tokenizer, prompts, ordered=ordered):
            lines.append(line)
            sys.stdout.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            sys.stdout.flush()
        stats = engine.stats
    lines.sort(key=lambda line: int(line["index"]))
    numbers = {name: value for name, value in stats._asdict().items() if name not in LATENCIES}
    numbers |= {name: getattr(stats, name)._asdict() for name in LATENCIES}
    return {"answers": lines, "seconds": time.perf_counter() - start, **numbers}


def _longest(prompt: Prompt, max_length: int) -> int:
    """Return the most tokens that a prompt and its answer have in the cache."""
    if prompt.params.max_tokens is None:
        return max_length
    return min(max_length, len(prompt.tokens) + max(prompt.params.max_tokens - 1, 0))
