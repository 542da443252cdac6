"""Options that several commands share, and options that still have their old name, hidden."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_file import locate, read_layout
from mimo_v2_flash.config_presets import DEFAULT_PRESET, PRESETS, HubLayout, Towers

from .option_types import draft_tokens

__all__ = [
    "CONTEXT",
    "NamedModel",
    "add_config_argument",
    "add_draft_tokens_argument",
    "add_renamed_option",
    "default_context",
    "read_model",
]

CONTEXT = 4096


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option of the config, for commands that need no weights."""
    parser.add_argument(
        "--model",
        type=Path,
        default=Path(DEFAULT_PRESET),
        metavar="MODEL",
        help=f"Name of a published model ({', '.join(PRESETS)}), or a config.json or its folder "
        f"(default: {DEFAULT_PRESET}).",
    )


class NamedModel(NamedTuple):
    """What `--model` names, for commands that need no weights.

    Attributes
    ----------
    title
        What reports call it.
    config
        Its config.
    layout
        How its files store weights.
    towers
        What they hold of other modalities; None where that is not known.
    """

    title: str
    config: MiMoConfig
    layout: HubLayout
    towers: Towers | None


def read_model(model: Path) -> NamedModel:
    """Return the published model called `model`, or that of the config at this path."""
    name = str(model)
    if preset := PRESETS.get(name):
        title = preset.repository.rpartition("/")[2] or name
        return NamedModel(title, MiMoConfig.from_preset(name), preset.layout, preset.towers)
    try:
        config = MiMoConfig.from_pretrained(model)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, or a name: {', '.join(PRESETS)}") from error
    return NamedModel(name, config, read_layout(locate(model)), None)


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
