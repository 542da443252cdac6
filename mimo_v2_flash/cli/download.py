"""Fetch some experts of MiMo-V2-Flash from the Hugging Face hub, and run a prompt on them.

Only the bytes of the tensors that are needed are fetched, and an interrupted download is resumed.
With a few of 256 experts the model writes nonsense, which is expected: its routers were trained
with all of them. The command shows that every weight is read and that the model runs.
"""

import argparse
from pathlib import Path

from mimo_v2_flash.checkpoint.hub import HubSource
from mimo_v2_flash.checkpoint.load import load_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.generation.generation_config import load_generation_config
from mimo_v2_flash.model import MiMoV2FlashModel

from . import prepare
from .console import amount, console
from .option_types import natural
from .result import Result

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "--model",
        default=prepare.MODEL,
        help=f"Repository on the Hugging Face hub to download from (default: {prepare.MODEL}).",
    )
    prepare.add_subset_arguments(parser)
    parser.add_argument(
        "--prompt-ids",
        nargs="+",
        type=natural,
        default=[1, 2, 3, 4, 5],
        metavar="ID",
        help="Token ids of the prompt (default: 1 2 3 4 5).",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=natural,
        default=8,
        help="Maximum number of tokens to generate (default: 8).",
    )


def run(
    model: str,
    revision: str,
    output: Path,
    expert_subset: list[str] | None,
    num_layers: int | None,
    mtp: bool,
    dtype: str,
    prompt_ids: list[int],
    max_new_tokens: int,
) -> Result:
    """Fetch, convert, run the prompt, and return sizes and tokens."""
    source, out = HubSource(model, revision), console()
    config = MiMoConfig.from_pretrained(source.config)
    encoding = Encoding(dtype, "cpu")
    job = prepare.plan(source, config, output, encoding, expert_subset, num_layers, mtp=mtp)
    kept, total = len(job.prepared.experts), config.n_routed_experts
    of_all = f" of {amount(source.total_size)}" if source.total_size else ""
    out.print(f"{amount(job.bytes_to_read)}{of_all} to fetch: {kept} of {total} experts")
    if kept < total or job.config.num_hidden_layers < config.num_hidden_layers:
        out.print("A part of the model writes nonsense; that is expected.")
    prepare.print_left_out(job)
    made = prepare.make(job)
    defaults = load_generation_config(output, job.config).with_sampling({"temperature": 0})
    runner = MiMoV2FlashModel(load_weights(output, job.config), job.config)
    (tokens,) = runner.generate(
        [prompt_ids], max_new_tokens=max_new_tokens, generation_config=defaults
    )
    out.print(f"prompt {prompt_ids}")
    out.print(f"tokens {tokens}")
    generated = {"prompt_tokens": prompt_ids, "new_tokens": tokens}
    return Result(prepare.sizes(job) | made | generated)
