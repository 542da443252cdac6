"""Generate text: continue a prompt, or answer a chat message, and report speed and memory.

The text goes to standard output as it is generated, everything else to standard error. Sampling
parameters are those of the checkpoint's generation_config.json unless options set them; without
either they are transformers': decoding is greedy.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from mimo_v2_flash.cpu.thread_count import thread_count
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.stats import EngineStats
from mimo_v2_flash.engine.worker import drafting_heads
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.generation.generation_config import SAMPLING
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.layers.generation_stats import GenerationStats
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.model_loader import load_model
from mimo_v2_flash.text.completion import CONTEXT, END, Completion, complete
from mimo_v2_flash.text.tokenizer import load_tokenizer

from .console import amount, console, table
from .dispatch_report import dispatch_numbers, dispatch_report
from .engine_report import engine_numbers, engine_rows, finite
from .example_model import add_model_argument, check_folder, checkpoint_config
from .option_types import natural, positive
from .options import add_draft_tokens_argument
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .prompt_file import PromptFile, has_error, in_order
from .result import Result
from .runtime_options import RuntimeOptions, add_runtime_arguments

__all__ = ["add_arguments", "add_sampling_arguments", "run", "sampling_options"]

SAMPLING_ARGUMENTS = (
    ("--temperature", float, "Sampling temperature; 0 decodes greedily", 0),
    (
        "--top-p",
        float,
        "Keep the fewest most probable tokens whose probabilities sum to this; 1 keeps all",
        1,
    ),
    ("--top-k", int, "Keep this many of the most probable tokens; 0 keeps all", 50),
    (
        "--min-p",
        float,
        "Keep the tokens whose probability is at least this fraction of the most probable token's; "
        "0 keeps all",
        0,
    ),
    (
        "--repetition-penalty",
        float,
        "Penalty on tokens that have occurred; above 1 discourages them, 1 is off",
        1,
    ),
    (
        "--presence-penalty",
        float,
        "Number that is subtracted from the logits of tokens in the answer; 0 is off",
        0,
    ),
    (
        "--frequency-penalty",
        float,
        "The same for each time that the token occurs in the answer; 0 is off",
        0,
    ),
)
"""Options of sampling: name, type, meaning, and the value where the checkpoint has none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_model_argument(parser)
    add_parallel_arguments(parser)
    add_runtime_arguments(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="Text to continue, or message to answer; it may be empty.")
    prompt.add_argument(
        "--prompt-file",
        type=Path,
        metavar="FILE",
        help='Many prompts, a JSON object in each line: {"prompt": TEXT} or {"messages": [...]}, '
        "and parameters of its own; - is standard input. The answers are lines of JSON.",
    )
    order = parser.add_argument("--ordered", action=argparse.BooleanOptionalAction, default=True)
    order.help = (
        "Write the answers to --prompt-file in its order, or as they end (default: --ordered)."
    )
    parser.add_argument(
        "--max-sequences",
        type=positive,
        default=32,
        help="Maximum number of answers to --prompt-file that run at a time (default: 32).",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="Answer the prompt as a chat message, with the checkpoint's chat template.",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=natural,
        default=200,
        help="Maximum number of tokens to generate (default: 200).",
    )
    add_sampling_arguments(parser)
    add_draft_tokens_argument(parser)
    stream = parser.add_argument("--stream", action=argparse.BooleanOptionalAction, default=True)
    # Given as an argument, the help would get a second default from Python 3.10 to 3.12.
    stream.help = "Write the text as it is generated, or all at its end (default: --stream)."


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of sampling, and the seed."""
    for name, kind, meaning, off in SAMPLING_ARGUMENTS:
        default = f"(default: the checkpoint's generation_config.json, or {off})"
        parser.add_argument(name, type=kind, help=f"{meaning} {default}.")
    parser.add_argument(
        "--seed",
        type=natural,
        help="Seed of the random numbers of sampling (default: a fresh one, which is reported).",
    )


def run(
    prompt_file: Path | None = None,
    ordered: bool = True,
    max_sequences: int = 32,
    setup: RankSetup = SINGLE_RANK,
    **options: Any,
) -> Result:
    """Answer a prompt, or the prompts of a file; return settings, rates and what was generated."""
    if prompt_file is None:
        return _answer_prompt(setup=setup, **options)
    if str(prompt_file) != "-":
        prompt_file.open("rb").close()  # an error comes before the model is loaded
    queue: dict[str, Any] = {"ordered": ordered, "max_sequences": max_sequences}
    return _answer_file(prompt_file, setup=setup, **queue, **options)


def _answer_file(
    file: Path,
    model: Path,
    chat: bool,
    max_new_tokens: int,
    seed: int | None,
    *,
    setup: RankSetup,
    ordered: bool,
    max_sequences: int,
    draft_tokens: int | str = "auto",
    **options: Any,
) -> Result:
    """Write a line of JSON for each prompt of a file, and the report; status 1 if one failed."""
    check_folder(model)
    sampling = sampling_options(options)
    runtime = RuntimeOptions.pop_from(options)
    keywords = runtime.keywords(NumpyBackend(), model.resolve().name, seed=seed)
    runner = load_model(model, group=setup.group, parallel=setup.plan, **keywords)
    ending = {"max_tokens": max_new_tokens, "seed": seed}
    defaults = runner.generation_config.with_sampling(sampling).sampling() | ending
    if not runner.pads_steps:
        runner.forward([[0]])  # it loads compiled code, which is not to be measured
    prompts = PromptFile(file, load_tokenizer(model), defaults, chat)
    start, failed, count = time.perf_counter(), 0, 0
    with Engine(runner, max_sequences, draft_tokens=draft_tokens) as engine:
        answers = prompts.answer(engine, ahead=2 * max_sequences)
        if setup.group.rank:
            engine.follow()
            answers = iter(())
        for answer in in_order(answers) if ordered else answers:
            _write(sys.stdout, f"{json.dumps(answer, ensure_ascii=False)}\n")
            count, failed = count + 1, failed + has_error(answer)
    seconds = time.perf_counter() - start
    numbers = {"model": model, "prompt_file": file, "chat": chat, "sampling": defaults}
    numbers |= {"compute": runner.compute}
    numbers |= {"draft_tokens": draft_tokens, "prompts": count, "errors": failed}
    numbers |= {"seconds": seconds}
    _report_file(numbers, engine.stats)
    return Result(numbers | {"stats": engine_numbers(engine.stats)}, int(failed > 0))


def _report_file(numbers: dict[str, Any], engine: EngineStats) -> None:
    """Print the numbers of a prompt file."""
    rows = [
        ("prompts, errors", "{prompts:,}, {errors:,}".format(**numbers)),
        ("compute", numbers["compute"]),
        *engine_rows(engine),
        ("whole time", f"{numbers['seconds']:.1f} s"),
    ]
    console(sys.stderr).print(table(f"{numbers['prompt_file']}", ("what",), ("amount",), rows))


def _answer_prompt(
    model: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int,
    seed: int | None,
    stream: bool,
    setup: RankSetup,
    draft_tokens: int | str = "auto",
    **options: Any,
) -> Result:
    """Write the text and the report, and return text, tokens, settings, times and rates."""
    sampling = sampling_options(options)
    stats = GenerationStats(checkpoint_config(model), *setup)
    runtime = RuntimeOptions.pop_from(options)
    keywords = runtime.keywords(stats, model.resolve().name, prompt, seed)
    runner = load_model(model, group=setup.group, parallel=setup.plan, **keywords)
    content = [{"role": "user", "content": prompt}] if chat else prompt
    options = {"seed": seed, "draft_tokens": draft_tokens, **sampling}
    generated = partial(complete, runner, load_tokenizer(model), content, **options)
    # A warm-up loads compiled code or programs, which is not to be measured.
    few = min(2 + MAX_DRAFT_TOKENS, max_new_tokens)
    short = partial(runner.generate, [[0]], draft_tokens=draft_tokens)
    (short if stats.is_eager else generated)(max_new_tokens=few)
    stats.begin()
    start = time.perf_counter()
    with _writer(f"{prompt}\n" if chat else prompt, stream=stream) as show:
        completion = generated(max_new_tokens=max_new_tokens, on_text=show)
    seconds = time.perf_counter() - start
    _write(sys.stdout, "\n" if stream else f"{completion.text}\n")
    used = runner.generation_config.with_sampling(sampling)
    numbers: dict[str, Any] = {"model": model, "prompt": prompt, "chat": chat}
    numbers |= {"max_new_tokens": max_new_tokens, "draft_tokens": draft_tokens}
    numbers |= {"backend": runtime.backend, "compute": runner.compute, "seconds": seconds}
    numbers |= {
        "sampling": {name: getattr(used, name) for name in SAMPLING},
        "eos_token_ids": used.eos_token_ids,
    }
    numbers |= _numbers(completion, stats, _cache_of(runner, completion, draft_tokens))
    _report(numbers, completion.stats, stats)
    return Result(numbers)


def sampling_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that options set; ValueError if one is not allowed."""
    sampling = {name: options[name] for name in SAMPLING if options[name] is not None}
    SamplingParams(**sampling)
    return sampling


@contextmanager
def _writer(prompt: str, *, stream: bool) -> Iterator[Callable[[str], None]]:
    """Write pieces of text as they come, after the prompt; an error begins a new line."""
    has_begun = False

    def show(piece: str) -> None:
        nonlocal has_begun
        if stream and not has_begun:  # now the prompt has been accepted
            _write(sys.stderr, prompt)
        has_begun = stream
        if stream:
            _write(sys.stdout, piece)

    try:
        yield show
    except BaseException:
        if has_begun:
            _write(sys.stderr, "\n")
        raise


def _cache_of(model: MiMoV2FlashModel, completion: Completion, draft_tokens: Any) -> HybridCache:
    """Return an empty cache for all tokens that the model has read: the last new one is not."""
    length = len(completion.prompt_tokens) + max(len(completion.new_tokens) - 1, 0)
    return model.new_cache(1, length, mtp_heads=drafting_heads(model, draft_tokens))


def _numbers(completion: Completion, stats: GenerationStats, cache: HybridCache) -> dict[str, Any]:
    """Return tokens, times, rates and memory of a completion, on all ranks together."""
    engine = completion.stats
    touched, experts = stats.experts_touched()
    return asdict(completion) | {
        "threads": thread_count().number,
        "finish_reason": "stop" if completion.stopped == END else "length",
        "stats": engine_numbers(engine),
        "first_token_seconds": finite(engine.first_token_seconds.p50),
        "prefill_tokens_per_second": finite(engine.prefill_tokens_per_second),
        "decode_tokens_per_second": finite(engine.decode_tokens_per_second),
        "kv_cache_tokens": cache.max_length,
        "kv_cache_bytes": stats.total(cache.nbytes),
        "experts_touched": touched if stats.is_eager else None,
        "experts": experts,
        "dispatch": dispatch_numbers(stats.dispatch, stats.group),
    }


def _report(numbers: dict[str, Any], engine: EngineStats, stats: GenerationStats) -> None:
    """Print the numbers of a completion and its settings."""
    prompt, new = len(numbers["prompt_tokens"]), len(numbers["new_tokens"])
    expert_rows = [("experts touched", f"{numbers['experts_touched']} of {numbers['experts']}")]
    rows = (
        ("prompt, new tokens", f"{prompt}, {new}"),
        *engine_rows(engine),
        (f"KV cache of {numbers['kv_cache_tokens']} tokens", amount(numbers["kv_cache_bytes"])),
        *(expert_rows if stats.is_eager else ()),
        ("compute", numbers["compute"]),
        ("threads", "{} ({})".format(*thread_count())),
    )
    out = console(sys.stderr)
    out.print("\n", table(f"Stopped by {numbers['stopped']}", ("what",), ("amount",), rows))
    settings = numbers["sampling"].items()
    used = ", ".join(f"{name} {value}" for name, value in settings)
    out.print("Sampling:", used, soft_wrap=True)
    out.print("Seed:", numbers["seed"])
    out.print("End tokens:", ", ".join(map(str, numbers["eos_token_ids"])) or "none")
    if dispatch := dispatch_report(stats.dispatch, stats.group):
        out.print(dispatch)
    if numbers["stopped"] == CONTEXT:
        out.print(f"The context is full: the model knows {prompt + max(new - 1, 0)} positions.")


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
