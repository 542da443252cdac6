"""Quality of a model on text: bits per byte of what is held out, MTP agreement, expert load."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import heads, trunk
from .model import Trunk
from .packing import begun, pack, rounded
from .shape import Shape

__all__ = ["measure", "write"]

TOGETHER = 4  # windows of one forward pass


def measure(
    model: Trunk, published: Trunk, mtp_heads: nn.ModuleList, shape: Shape, folder: Path
) -> dict[str, Any]:
    """Return the quality figures.

    Parameters
    ----------
    model
        The trunk as it was trained, in float32.
    published
        The same with the dequantised weights of the FP8 checkpoint.
    mtp_heads
        Its MTP heads.
    shape
        Its shape.
    folder
        Folder of tokenizer.json and training/held_out.txt.
    """
    text = (folder / "training" / "held_out.txt").read_bytes()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = np.array(tokenizer.encode(text.decode(), add_special_tokens=False).ids)
    windows = np.split(ids, range(shape.length, len(ids), shape.length))
    nats, loads = total_nats(model, windows)
    per_byte = 1 / (np.log(2) * len(text))
    return {
        "bytes": len(text),
        "tokens": len(ids),
        "bits_per_byte": {
            "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
            "float32": nats * per_byte,
            "FP8": total_nats(published, windows)[0] * per_byte,
        },
        "heads_agree": agreement(mtp_heads, model, windows[:-1]),
        "busiest_expert": [(load.max() / load.mean()).item() for load in loads],
        "idlest_expert": [(load.min() / load.mean()).item() for load in loads],
        "selection_bias": [
            router.e_score_correction_bias.abs().mean().item() for router in model.routers()
        ],
    }


@torch.no_grad()
def total_nats(model: Trunk, windows: list[np.ndarray]) -> tuple[float, list[Tensor]]:
    """Return minus the log-probability of a text's windows, and each router's load."""
    total, loads = 0.0, [torch.zeros_like(router.load_E) for router in model.routers()]
    for start in range(0, len(windows), TOGETHER):
        group = [begun(each) for each in windows[start : start + TOGETHER]]
        batch = pack(group, rounded(sum(map(len, group))))
        total += trunk.loss_of(model, batch).item() * int(batch.counts_N.sum())
        loads = [a + router.take_load() for a, router in zip(loads, model.routers(), strict=True)]
    return total, loads


@torch.no_grad()
def agreement(mtp_heads: nn.ModuleList, model: Trunk, windows: list[np.ndarray]) -> list[float]:
    """Return, for each MTP head, the share of positions where its top token is the trunk's."""
    matches: list[list[Tensor]] = [[] for _ in mtp_heads]
    for window in windows:
        batch = pack([begun(window)], len(window))
        for match, (draft, target) in zip(
            matches, heads.draft_logits(mtp_heads, model, batch), strict=True
        ):
            match.append(draft.argmax(-1) == target.argmax(-1))
    return [torch.cat(each).float().mean().item() for each in matches]


def write(figures: dict[str, Any], file: Path) -> None:
    """Write the figures as JSON, rounded to four decimal places."""
    figures = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 4))
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
