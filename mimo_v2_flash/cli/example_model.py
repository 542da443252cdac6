"""The checkpoint that text modes run on, with its tokenizer; by default the shipped mimo-tiny.

mimo-tiny is part of a source checkout, in `examples/`.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.text.tokenizer import load_tokenizer

__all__ = ["EXAMPLE", "OpenedModel", "add_model_argument", "open_model"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "mimo-tiny"


class OpenedModel(NamedTuple):
    """A checkpoint: its config, its memory-mapped weights and its tokenizer."""

    config: MiMoConfig
    weights: ModelWeights
    tokenizer: Any


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option of the checkpoint."""
    parser.add_argument(
        "--model",
        type=Path,
        default=EXAMPLE,
        metavar="FOLDER",
        help="Folder of a checkpoint with its tokenizer (default: examples/mimo-tiny).",
    )


def open_model(folder: Path, shard_spec: ShardSpec | None = None) -> OpenedModel:
    """Return the checkpoint in `folder`, or the shard `shard_spec` of it; weights are mapped.

    Raises
    ------
    FileNotFoundError
        If the folder or a file in it is missing; the message names it.
    """
    if not folder.is_dir():
        hint = "; it is part of a source checkout, name another one" if folder == EXAMPLE else ""
        raise FileNotFoundError(f"--model {folder}: no such folder{hint}")
    config = MiMoConfig.from_pretrained(folder)
    weights = load_weights(folder, config, share=shard_spec)
    return OpenedModel(config, weights, load_tokenizer(folder))
