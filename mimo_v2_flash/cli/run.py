"""Chat with a model in the terminal, or through pipes.

Answers go to standard output, all else to standard error; through a pipe each line is a message.
/help lists the commands of a chat. Ctrl-C ends an answer, of which the rest stays; Ctrl-D leaves.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

from mimo_v2_flash.chat.conversation import Conversation
from mimo_v2_flash.chat.terminal import Terminal, messages_of, read_lines
from mimo_v2_flash.layers.generation_stats import GenerationStats
from mimo_v2_flash.runner import Runner, Which

from .example_model import add_model_argument, checkpoint_config
from .generate import add_sampling_arguments, sampling_options
from .option_types import natural, positive
from .options import add_draft_tokens_argument
from .parallel_options import SINGLE_RANK
from .result import Result
from .runtime_options import RuntimeOptions, add_runtime_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_model_argument(parser)
    parser.add_argument(
        "--architecture",
        "--arch",
        metavar="NAME",
        help="Architecture, which is checked: mimov2flash (default: not checked).",
    )
    parser.add_argument(
        "-i",
        "--input",
        metavar="TEXT",
        help="Message to answer, once (default: messages of standard input).",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="System message (default: the chat template's)."
    )
    parser.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="Let the model think before it answers (default: as the chat template has it).",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=natural,
        help="Maximum number of tokens of an answer (default: the rest of the context).",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        help="Maximum number of tokens of the conversation (default: the model's).",
    )
    add_sampling_arguments(parser)
    add_draft_tokens_argument(parser)
    add_runtime_arguments(parser)


def run(
    model: Path,
    architecture: str | None,
    input: str | None,  # noqa: A002  the option's name
    system: str | None,
    think: bool | None,
    max_new_tokens: int | None,
    max_length: int | None,
    seed: int | None,
    draft_tokens: int | str = "auto",
    **options: Any,
) -> Result:
    """Chat until the reader leaves; return the messages. The status is 1 if an answer failed."""
    which = Which.Plain(model, architecture)
    settings = sampling_options(options) | {"max_tokens": max_new_tokens, "seed": seed}
    stats = GenerationStats(checkpoint_config(model), *SINGLE_RANK)
    keywords = RuntimeOptions.pop_from(options).keywords(stats, model.resolve().name, seed=seed)
    warnings.simplefilter("always")  # each time that the context is full
    if max_length is not None:
        keywords["max_length"] = max_length
    with Runner(which, max_seqs=1, draft_tokens=draft_tokens, **keywords) as runner:
        conversation = Conversation(
            runner,
            system=system,
            settings=settings,
            enable_thinking=think,
            experts_touched=stats.experts_touched if stats.is_eager else None,
        )
        terminal = Terminal(conversation)
        messages = messages_of(read_lines()) if input is None else iter([input])
        failed = terminal.run(messages)
        return Result({"model": model, "messages": conversation.messages}, int(failed > 0))
