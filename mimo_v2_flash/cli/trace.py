"""Trace a prompt: write every named tensor of its prefill to a file, for `--mode compare`.

docs/tracing.md lists the tensors. The prompt is a text, or token ids, which need no tokenizer.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.load import load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.layers.hooks import HookCall, HookedLayers
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.text.tokenizer import load_tokenizer, prompt_tokens

from .console import amount, console
from .example_model import add_model_argument
from .trace_file import write_trace
from .trace_tensors import TENSORS, layer_name

__all__ = ["add_arguments", "run", "trace_prompt"]


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


def trace_prompt(
    weights: ModelWeights, config: MiMoConfig, token_T: Any, *, max_step: int = 512
) -> dict[str, np.ndarray]:
    """Return the tensors of one prefill, by the names of `trace_tensors.TENSORS`.

    Raises
    ------
    ValueError
        As raised by `MiMoV2FlashModel.forward`.
    """
    chunks: dict[str, list[np.ndarray]] = {}

    def keep(name: str, tensor: Any) -> None:
        chunks.setdefault(name, []).append(np.asarray(tensor))

    def hook(call: HookCall) -> None:
        if (call.layer, call.part) == (0, "layer"):
            keep("embedding", call.args[0][0])
        for tensor in TENSORS:
            if tensor.take and tensor.part == call.part:
                keep(layer_name(call.layer, tensor), tensor.take(call))

    backend = HookedLayers(config.num_hidden_layers, hook)
    model = MiMoV2FlashModel(weights, config, max_step=max_step, backend=backend)
    logits_TV = model.forward([token_T])[0]
    tensors = {name: np.concatenate(parts) for name, parts in chunks.items()}
    last_BTD = tensors[f"layers.{config.num_hidden_layers - 1}.output"][None]
    final_TD = rmsnorm(last_BTD, weights.final_norm_D, epsilon=config.layernorm_epsilon)[0]
    first = {"tokens": np.asarray(token_T), "positions": np.arange(len(logits_TV))}
    return first | tensors | {"final_norm": final_TD, "logits": logits_TV}
