"""Options that several commands share, and options that still have their old name, hidden."""

import argparse
from pathlib import Path
from typing import Any

from mimo_v2_flash.config import MiMoConfig

from .option_types import draft_tokens

__all__ = [
    "CONTEXT",
    "add_config_argument",
    "add_draft_tokens_argument",
    "add_renamed_option",
    "default_context",
    "read_config",
]

CONTEXT = 4096


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option of the config, for commands that need no weights."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="PATH",
        help="Config of the model: a config.json or its folder (default: MiMo-V2-Flash's).",
    )


def read_config(model: Path | None) -> MiMoConfig:
    """Return the config at `model`; MiMo-V2-Flash's if it is None."""
    return MiMoConfig() if model is None else MiMoConfig.from_pretrained(model)


def add_draft_tokens_argument(parser: Any) -> None:
    """Declare the option of speculative decoding, for commands that generate."""
    parser.add_argument(
        "--draft-tokens",
        type=draft_tokens,
        default="auto",
        metavar="N",
        help="Number of tokens that the model's MTP heads draft for each step, which verifies "
        "them, or auto, which drafts where it pays (default: auto).",
    )


def default_context(config: MiMoConfig) -> int:
    """Return the maximum sequence length of a deployment whose options leave it open."""
    return min(CONTEXT, config.max_position_embeddings)


def add_renamed_option(parser: Any, name: str, old_name: str, **options: Any) -> None:
    """Declare the option `name`, and `old_name` as a hidden alias of it."""
    action = parser.add_argument(name, **options)
    parser.add_argument(old_name, dest=action.dest, **(options | {"help": argparse.SUPPRESS}))
