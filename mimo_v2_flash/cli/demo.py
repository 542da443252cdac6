"""Show a tiny trained model write, then check every kernel against its oracle.

The command needs no file and no network: the model is part of the package.
"""

import argparse

from . import generate, self_check
from .example_model import resolve_gguf
from .option_types import natural
from .result import Result
from .session import PLAN

__all__ = ["add_arguments", "run"]

WORDS = ("--prompt", "The list type", "--max-new-tokens", "120")
"""Options of `generate`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "--seed",
        type=natural,
        help="Seed of the text and of the checks' inputs (default: a fresh one, and 0).",
    )


def run(seed: int | None) -> Result:
    """Run `generate` and `test`; return the numbers of both, and the status of the checks."""
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    options = vars(parser.parse_args(WORDS)) | {"seed": seed}
    resolve_gguf(options)
    for name in PLAN:
        del options[name]
    completion, checks = generate.run(**options), self_check.run(seed or 0)
    return Result({"generate": completion.numbers, "test": checks.numbers}, checks.status)
