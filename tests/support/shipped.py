"""The shipped checkpoint as transformers' model, dequantised without the package's code.

Source: the hub's layout (`fp8_blocks`): attention was quantised on as many ranks as full layers
have KV heads, and on each rank the scale rows of keys and values cross the boundary of K and V.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from examples.transformers_model import native
from mimo_v2_flash.config import MiMoConfig
from tests.support.fp8_blocks import BLOCK

Tensors = dict[str, torch.Tensor]
FOLDER = Path(__file__).parents[2] / "examples" / "mimo-tiny"
SCALE, KEYS, VALUES = "_scale_inv", "k_proj.weight", "v_proj.weight"


@cache
def shipped_oracle() -> Any:
    """Return transformers' model with the dequantised weights, in float32."""
    config = MiMoConfig.from_pretrained(FOLDER)
    weights = dequantised(stored(), config.num_key_value_heads)
    model, loading_info = transformers.MiMoV2FlashForCausalLM.from_pretrained(
        None,
        config=native(config),
        state_dict={
            name: weight for name, weight in weights.items() if not name.startswith("model.mtp.")
        },
        output_loading_info=True,
        dtype="float32",
    )
    assert not any(loading_info.values()), loading_info
    return model.eval()


def stored() -> Tensors:
    """Return every tensor of the checkpoint."""
    tensors: Tensors = {}
    for shard in FOLDER.glob("*.safetensors"):
        tensors |= load_file(shard)
    return tensors


def dequantised(tensors: Tensors, ranks: int) -> Tensors:
    """Return every weight, dequantised to float32."""
    weights = {}
    for name in [name for name in tensors if not name.endswith(SCALE)]:
        if name + SCALE not in tensors:
            weights[name] = tensors[name].float()
        elif name.endswith(KEYS):
            other = name.removesuffix(KEYS) + VALUES
            weights[name], weights[other] = keys_and_values(tensors, name, other, ranks)
        elif not name.endswith(VALUES):
            weights[name] = unscaled(tensors[name], tensors[name + SCALE])
    return weights


def keys_and_values(tensors: Tensors, key: str, value: str, ranks: int) -> list[torch.Tensor]:
    """Return K and V: each rank's shards of both are one matrix, with its own blocks."""
    code, scale = (
        torch.cat([tensors[name + end].unflatten(0, (ranks, -1)) for name in (key, value)], dim=1)
        for end in ("", SCALE)
    )
    both = torch.stack([unscaled(*shard) for shard in zip(code, scale, strict=True)])
    rows = len(tensors[key]) // ranks
    return [both[:, :rows].flatten(0, 1), both[:, rows:].flatten(0, 1)]


def unscaled(code_OI: torch.Tensor, scale_YX: torch.Tensor) -> torch.Tensor:
    """Return the codes multiplied by the scales of their blocks."""
    rows, columns = (torch.arange(size) // BLOCK for size in code_OI.shape)
    return code_OI.float() * scale_YX[rows[:, None], columns]
