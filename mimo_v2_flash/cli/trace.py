"""Trace a prompt: write every named tensor of its prefill to a file, for `mimo compare`.

docs/tracing.md lists the tensors. The prompt is a text, or token ids, which need no tokenizer.
"""

import argparse
import time
from pathlib import Path

from mimo_v2_flash.checkpoint.load import load_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.inputs import as_tokens
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import load_tokenizer
from mimo_v2_flash.tracing.trace_file import write_trace
from mimo_v2_flash.tracing.trace_prompt import trace_prompt

from .console import amount, console
from .example_model import add_model_argument
from .option_types import natural, output_file, positive
from .result import Result
from .runtime_options import add_compute_argument

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_model_argument(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="Text to trace; it needs the model's tokenizer.")
    prompt.add_argument(
        "--tokens", nargs="+", type=natural, metavar="ID", help="Token ids to trace, such as 3 1 4."
    )
    parser.add_argument(
        "--output",
        type=output_file,
        default=Path("trace.safetensors"),
        metavar="FILE",
        help="Trace file to write (default: trace.safetensors).",
    )
    parser.add_argument(
        "--max-step",
        type=positive,
        default=512,
        help="Number of prompt tokens per prefill step (default: 512).",
    )
    add_compute_argument(parser)


def run(
    model: Path,
    prompt: str | None,
    tokens: list[int] | None,
    output: Path,
    max_step: int,
    compute: str = "float32",
) -> Result:
    """Trace, write the file, and return its sizes."""
    start = time.perf_counter()
    config = MiMoConfig.from_pretrained(model)
    token_T = tokens or prompt_tokens(load_tokenizer(model), str(prompt))
    context, option = config.max_position_embeddings, "--tokens" if tokens else "--prompt"
    if len(token_T) > context:
        raise ValueError(f"{option} has {len(token_T)} tokens, the model's context {context}")
    as_tokens([token_T], config.vocab_size)
    weights = load_weights(model, config)
    tensors = trace_prompt(weights, config, token_T, max_step=max_step, compute=compute)
    size = write_trace(output, tensors, config)
    numbers = {
        "file": output,
        "tensors": len(tensors),
        "tokens": len(token_T),
        "compute": compute,
        "bytes": size,
        "seconds": time.perf_counter() - start,
    }
    line = "{file}: {tensors} tensors of {tokens} tokens".format(**numbers)
    console().print(f"{line}, {amount(size)}", soft_wrap=True)
    return Result(numbers)
