"""The checkpoint that text modes run on, with its tokenizer; by default the shipped mimo-tiny.

mimo-tiny is part of a source checkout, in `examples/`.
"""

import argparse
import warnings
from pathlib import Path

from mimo_v2_flash.config import MiMoConfig

__all__ = ["EXAMPLE", "add_model_argument", "check_folder", "checkpoint_config"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "mimo-tiny"


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option of the checkpoint."""
    parser.add_argument(
        *("-m", "--model"),
        type=Path,
        default=EXAMPLE,
        metavar="FOLDER",
        help="Folder of a checkpoint with its tokenizer (default: examples/mimo-tiny).",
    )


def check_folder(model: Path) -> None:
    """Raise FileNotFoundError, naming the option, if the folder of a checkpoint is missing."""
    if not model.is_dir():
        hint = "; it is part of a source checkout, name another one" if model == EXAMPLE else ""
        raise FileNotFoundError(f"--model {model}: no such folder{hint}")


def checkpoint_config(model: Path) -> MiMoConfig:
    """Return the config of a checkpoint that is then loaded: loading warns of what is odd in it."""
    check_folder(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MiMoConfig.from_pretrained(model)
