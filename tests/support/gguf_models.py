"""A tiny model as a GGUF file, whose tokenizer and sampling are mimo-tiny's where it has them."""

from dataclasses import replace
from pathlib import Path

from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.convert.gguf_writer import plan_gguf
from tests.support.tiny import Recipe, Tiny, tiny

__all__ = ["RECIPE", "write_shipped", "write_tiny"]

RECIPE = Recipe(scaling=1.0)  # mimo2 has no other


def write_tiny(
    path: Path, recipe: Recipe = RECIPE, dtype: str = "float32", split_bytes: int = 0
) -> Tiny:
    """Write the model of a recipe, without a tokenizer; return it."""
    model = tiny(replace(recipe, scaling=1.0))
    plan = plan_gguf(path, model.config, model.weights, dtype, path.parent / "no such folder")
    plan.write(lambda _: None, split_bytes=split_bytes)
    return model


def write_shipped(path: Path, folder: Path, dtype: str = "float32") -> None:
    """Write the model in a folder, with its tokenizer, template and sampling."""
    config = MiMoConfig.from_pretrained(folder)
    plan_gguf(path, config, load_weights(folder, config), dtype, folder).write(lambda _: None)
