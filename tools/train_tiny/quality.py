"""How good it is: bits per byte of unseen text, heads that agree, experts that are used."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from . import heads, trunk
from .shape import LENGTH
from .windows import pairs

__all__ = ["measure", "write"]


def measure(work: Path, held_out: Path, oracle: Any) -> dict[str, Any]:
    """Return the figures of the card.

    Parameters
    ----------
    work
        Holds the trained trunk and heads, in float32.
    held_out
        The text, UTF-8.
    oracle
        transformers' model with the weights that the FP8 files stand for.
    """
    text = held_out.read_bytes()
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    ids = tokenizer.encode(text.decode(), add_special_tokens=False).ids
    model = trunk.load(work)
    with torch.no_grad(), trunk.loads_of(model) as loads:
        nats = total_nats(model, ids)
    layers = len(trunk.routers(model))
    per_layer = [sum(loads[index::layers]) for index in range(layers)]
    bits = 1 / (np.log(2) * len(text))  # per byte, of one nat
    return {
        "bytes": len(text),
        "tokens": len(ids),
        "bits_per_byte": {
            "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
            "float32": nats * bits,
            "FP8": total_nats(oracle, ids) * bits,
        },
        "heads_agree": agreement(heads.load(work, model), model, ids),
        "busiest_expert": [(load.max() / load.mean()).item() for load in per_layer],
        "idlest_expert": [(load.min() / load.mean()).item() for load in per_layer],
        "selection_bias": [
            each.e_score_correction_bias.abs().mean().item() for each in trunk.routers(model)
        ],
    }


@torch.no_grad()
def total_nats(model: Any, ids: list[int]) -> float:
    """Return minus the log-probability of all `ids`, window by window, each begun anew."""
    total = 0.0
    for start in range(0, len(ids), LENGTH):
        given, target = pairs(np.array([ids[start : start + LENGTH]]))
        fill = -given.shape[1] % LENGTH  # the last window, filled to what attention can cut
        logits = model(functional.pad(given, (0, fill)), use_cache=False).logits
        logits = logits[0, : given.shape[1]].double()
        total += functional.cross_entropy(logits, target[0], reduction="sum").item()
    return total


@torch.no_grad()
def agreement(predictors: nn.ModuleList, model: Any, ids: list[int]) -> list[float]:
    """Return the share of positions where each head's best token is the trunk's own."""
    whole = np.array(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    hits: list[list[Tensor]] = [[] for _ in predictors]
    for row in whole:
        for hit, (guess, truth) in zip(
            hits, heads.seen_by(predictors, model, *pairs(row[None])), strict=True
        ):
            hit.append((guess.argmax(-1) == truth.argmax(-1)).flatten())
    return [torch.cat(each).float().mean().item() for each in hits]


def write(figures: dict[str, Any], file: Path) -> None:
    """Write the figures as JSON, rounded to four places."""
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 4))
    file.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
