"""Trace a prompt: write every named tensor of its prefill to a file, for `--mode compare`.

docs/tracing.md lists the tensors. The prompt is a text, or token ids, which need no tokenizer.
"""

import argparse
from pathlib import Path

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.text.tokenizer import load_tokenizer, prompt_tokens
from mimo_v2_flash.tracing.trace_file import write_trace
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from mimo_v2_flash.weights.load import load_weights

from .console import amount, console
from .example_model import add_model_argument

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    add_model_argument(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="Text to trace; it needs the model's tokenizer.")
    prompt.add_argument(
        "--tokens", nargs="+", type=int, metavar="ID", help="Token ids to trace, such as 3 1 4."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("trace.safetensors"),
        metavar="FILE",
        help="Trace file to write (default: trace.safetensors).",
    )
    parser.add_argument(
        "--max-step",
        type=int,
        default=512,
        help="Number of prompt tokens per prefill step (default: 512).",
    )


def run(
    model: Path, prompt: str | None, tokens: list[int] | None, output: Path, max_step: int
) -> int:
    """Trace, write the file, and return the exit status."""
    config = MiMoConfig.from_pretrained(model)
    weights = load_weights(model, config)
    token_T = prompt_tokens(load_tokenizer(model), prompt) if prompt is not None else tokens
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {output}: no such folder")
    tensors = trace_prompt(weights, config, token_T, max_step=max_step)
    size = write_trace(output, tensors, config)
    sizes = f"{len(tensors)} tensors of {len(tensors['tokens'])} tokens, {amount(size)}"
    console().print(f"{output}: {sizes}", soft_wrap=True)
    return 0
