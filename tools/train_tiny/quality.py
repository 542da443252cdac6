"""Quality figures of the model: bits per byte of held-out text, MTP agreement, expert load."""

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
    """Return the quality figures.

    Parameters
    ----------
    work
        Folder with the trained trunk and MTP heads, in float32.
    held_out
        File of the held-out text, UTF-8.
    oracle
        transformers' model with the dequantised weights of the FP8 checkpoint.
    """
    text = held_out.read_bytes()
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    ids = tokenizer.encode(text.decode(), add_special_tokens=False).ids
    model = trunk.load(work)
    with torch.no_grad(), trunk.loads_of(model) as loads:
        nats = total_nats(model, ids)
    layers = len(trunk.routers(model))
    per_layer = [sum(loads[index::layers]) for index in range(layers)]
    bits_per_nat = 1 / (np.log(2) * len(text))  # per byte of the text
    return {
        "bytes": len(text),
        "tokens": len(ids),
        "bits_per_byte": {
            "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
            "float32": nats * bits_per_nat,
            "FP8": total_nats(oracle, ids) * bits_per_nat,
        },
        "heads_agree": agreement(heads.load(work, model), model, ids),
        "busiest_expert": [(load.max() / load.mean()).item() for load in per_layer],
        "idlest_expert": [(load.min() / load.mean()).item() for load in per_layer],
        "selection_bias": [
            router.e_score_correction_bias.abs().mean().item() for router in trunk.routers(model)
        ],
    }


@torch.no_grad()
def total_nats(model: Any, ids: list[int]) -> float:
    """Return minus the log-probability of `ids`, in independent windows of `LENGTH` tokens."""
    total = 0.0
    for start in range(0, len(ids), LENGTH):
        inputs, targets = pairs(np.array([ids[start : start + LENGTH]]))
        padding = -inputs.shape[1] % LENGTH  # attention needs whole blocks, also in the last window
        logits = model(functional.pad(inputs, (0, padding)), use_cache=False).logits
        logits = logits[0, : inputs.shape[1]].double()
        total += functional.cross_entropy(logits, targets[0], reduction="sum").item()
    return total


@torch.no_grad()
def agreement(mtp_heads: nn.ModuleList, model: Any, ids: list[int]) -> list[float]:
    """Return, for each MTP head, the share of positions where its top token is the trunk's."""
    windows = np.array(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    matches: list[list[Tensor]] = [[] for _ in mtp_heads]
    for window in windows:
        for match, (draft, target) in zip(
            matches, heads.draft_logits(mtp_heads, model, *pairs(window[None])), strict=True
        ):
            match.append((draft.argmax(-1) == target.argmax(-1)).flatten())
    return [torch.cat(each).float().mean().item() for each in matches]


def write(figures: dict[str, Any], file: Path) -> None:
    """Write the figures as JSON, rounded to four decimal places."""
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 4))
    file.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
