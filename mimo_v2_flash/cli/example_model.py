"""The model that commands of text run on: a checkpoint with its tokenizer, by default the example.

The example lies beside the package, in a checkout.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.text.tokenizer import load_tokenizer
from mimo_v2_flash.weights import load_weights
from mimo_v2_flash.weights.params import ModelWeights

__all__ = ["EXAMPLE", "OpenedModel", "add_model_argument", "open_model"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "mimo-tiny"


class OpenedModel(NamedTuple):
    """A checkpoint, ready to be run."""

    config: MiMoConfig
    weights: ModelWeights
    tokenizer: Any


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names a checkpoint."""
    parser.add_argument(
        "--model",
        type=Path,
        default=EXAMPLE,
        metavar="FOLDER",
        help="of a checkpoint with its tokenizer (examples/mimo-tiny of the checkout)",
    )


def open_model(folder: Path, share: ShardSpec | None = None) -> OpenedModel:
    """Return the checkpoint in `folder`, mapped; FileNotFoundError names what is not there.

    Where the folder holds shards, that of `share`.
    """
    if not folder.is_dir():
        where = "; it comes with a checkout, name another one" if folder == EXAMPLE else ""
        raise FileNotFoundError(f"--model {folder}: no such folder{where}")
    config = MiMoConfig.from_pretrained(folder)
    return OpenedModel(config, load_weights(folder, config, share=share), load_tokenizer(folder))
