"""The checkpoint that text modes run on, with its tokenizer; by default the shipped mimo-tiny."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.example_folders import example_names
from mimo_v2_flash.gguf_files import as_folder
from mimo_v2_flash.gguf_files.file import SUFFIX

from .option_types import model_folder, positive, positive_number
from .parser import close_matches

__all__ = ["EXAMPLE", "add_model_argument", "check_folder", "checkpoint_config", "resolve_gguf"]

EXAMPLE = "mimo-tiny"


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option of the checkpoint."""
    parser.add_argument(
        *("-m", "--model"),
        type=model_folder,
        default=EXAMPLE,
        metavar="FOLDER",
        help="Folder of a checkpoint with its tokenizer, a GGUF file, or the name of an example "
        "(default: mimo-tiny).",
    )
    parser.add_argument(
        "--value-scale",
        type=positive_number,
        help="Scale of values of a GGUF file that lacks it; MiMo-V2-Flash's is 0.707 (default: "
        "the file's).",
    )
    parser.add_argument(
        "--window-keys",
        type=positive,
        help="Number of keys, itself included, that a token of a sliding layer attends to in a "
        "GGUF file; llama.cpp takes 128 where the model has 129 (default: the file's, 128 read "
        "as 129).",
    )


def resolve_gguf(options: dict[str, Any]) -> None:
    """Take --value-scale and --window-keys out of the options, and apply them to the model."""
    readings = {name: options.pop(name, None) for name in ("value_scale", "window_keys")}
    if not any(reading is not None for reading in readings.values()):
        return
    if options["model"].suffix != SUFFIX:
        name = next(name for name, reading in readings.items() if reading is not None)
        raise ValueError(f"--{name.replace('_', '-')} is for a GGUF file, --model is none")
    options["model"] = as_folder(options["model"], **readings)


def check_folder(model: Path) -> None:
    """Raise FileNotFoundError, naming the option, if the checkpoint is missing."""
    if not model.is_dir() and not (model.suffix == SUFFIX and model.is_file()):
        hint = close_matches(str(model), example_names())
        raise FileNotFoundError(f"--model {model}: no such folder{hint}")


def checkpoint_config(model: Path) -> MiMoConfig:
    """Return the config of a checkpoint that is then loaded: loading warns of what is odd in it."""
    check_folder(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MiMoConfig.from_pretrained(model)
