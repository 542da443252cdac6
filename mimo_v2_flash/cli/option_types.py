"""Types of options: integers in a range, and files that can be written.

They raise ArgumentTypeError, so that the error is of the option and comes before any work.
"""

import argparse
import math
import os
from pathlib import Path

from mimo_v2_flash.example_folders import example_folder, example_names
from mimo_v2_flash.json_object import shorten

__all__ = [
    "FILE_TYPES",
    "STDOUT",
    "byte_size",
    "draft_tokens",
    "model_folder",
    "natural",
    "output_file",
    "positive",
    "positive_number",
]

LARGEST = 2**31 - 1  # of a size or number: positions are int32

STDOUT = Path("-")
"""The value of `--json` without a file."""


def positive(text: str) -> int:
    """Return an integer above 0 that int32 holds; ArgumentTypeError if `text` is none."""
    value = _integer(text, 1, "an integer above 0")
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is above {LARGEST:,}")
    return value


def natural(text: str) -> int:
    """Return an integer that is 0 or more; ArgumentTypeError if `text` is none."""
    return _integer(text, 0, "an integer of 0 or more")


def byte_size(text: str) -> int | str:
    """Return a size as `memory_size` takes it: bytes as an integer, other texts as they are."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text


def draft_tokens(text: str) -> int | str:
    """Return an integer that is 0 or more, or "auto"; ArgumentTypeError if `text` is neither."""
    return text if text == "auto" else _integer(text, 0, "an integer of 0 or more, or auto")


def _integer(text: str, minimum: int, allowed: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not {allowed}")
    return value


def positive_number(text: str) -> float:
    """Return a finite number above 0; ArgumentTypeError if `text` is none."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a number above 0")
    return value


def output_file(text: str) -> Path:
    """Return the path of a file that can be written; ArgumentTypeError if it cannot."""
    path = Path(text)
    if not text or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: permission denied")
    return path


def model_folder(text: str) -> Path:
    """Return the path of a model, or the folder of the example that has this name."""
    path = Path(text)
    return example_folder(text) if not path.exists() and text in example_names() else path


FILE_TYPES = (Path, model_folder, output_file)
"""Types whose values are paths, which a shell completes."""
