"""The published models of the family by name: the numbers in which each differs from MiMo-V2-Flash.

Source: hub config.json of XiaomiMiMo/MiMo-V2.5, -V2.5-Pro and -V2.6-Flash-RL, which were printed
whole; of MiMo-V2.6-Pro-RL all keys in which it differs from V2.6-Flash-RL. No config.json of the
others was seen: MOPD has that of RL here, an FP4 model that of its FP8 model, Base V2-Flash's with
the end token that its GGUF files name. Tensors: docs/family.md.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "DEFAULT_PRESET",
    "NO_TOWERS",
    "PRESETS",
    "SPLIT",
    "HubLayout",
    "Preset",
    "Towers",
    "find_preset",
]


class HubLayout(NamedTuple):
    """How the files of a model store its weights.

    Attributes
    ----------
    fused
        Whether q, k and v of a layer are one weight, rank after rank.
    expert_format
        The format of experts, where it is another than that of the other matmul weights.
    router_dtype
        The safetensors dtype of the weights of routers; their selection biases are in F32.
    """

    fused: bool = False
    expert_format: str | None = None
    router_dtype: str = "F32"


class Towers(NamedTuple):
    """The tensors of other modalities in a model's files, which are not read: all in BF16."""

    tensors: int
    elements: int


class Preset(NamedTuple):
    """A published model.

    Attributes
    ----------
    repository
        Its name on the hub; empty where none was found.
    numbers
        The fields of MiMoConfig in which it differs from MiMo-V2-Flash.
    layout
        How its files store the weights.
    towers
        What its files hold beside the text model and the MTP heads.
    """

    repository: str
    numbers: Mapping[str, Any]
    layout: HubLayout
    towers: Towers


SPLIT = HubLayout()
"""The layout of MiMo-V2-Flash: q, k and v by themselves."""

NO_TOWERS = Towers(0, 0)
_OMNI, _OMNI_PRO = Towers(459, 989_721_600), Towers(459, 1_033_761_792)
_FUSED, _FP4 = HubLayout(fused=True), HubLayout(fused=True, expert_format="mxfp4")
_V2_6 = HubLayout(fused=True, expert_format="mxfp4", router_dtype="BF16")

_FLASH = {"max_position_embeddings": 1_048_576, "rope_theta": 10_000_000.0}
_PRO = _FLASH | {
    "hidden_size": 6144,
    "num_hidden_layers": 70,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "swa_num_attention_heads": 128,
    "attention_value_scale": 0.612,
    "n_routed_experts": 384,
    "hybrid_layer_pattern": (
        *(0, 1, 1, 1, 1, 1, 1),
        *(0, 1, 1, 1, 1, 1, 1, 1) * 6,
        *(0, 1, 1, 1, 1, 1, 1) * 2,
        0,
    ),
    "moe_layer_freq": (0, *(1,) * 69),
}
_NO_END: dict[str, Any] = {"eos_token_id": None}  # generation_config.json alone has end tokens
_HUB = "XiaomiMiMo/MiMo"

DEFAULT_PRESET = "v2-flash"
PRESETS = {
    DEFAULT_PRESET: Preset(f"{_HUB}-V2-Flash", {}, SPLIT, NO_TOWERS),
    "v2-flash-base": Preset(f"{_HUB}-V2-Flash-Base", {"eos_token_id": 151643}, SPLIT, NO_TOWERS),
    "v2.5": Preset(f"{_HUB}-V2.5", _FLASH, _FUSED, _OMNI),
    "v2.5-fp4": Preset("", _FLASH, _FP4, _OMNI),
    "v2.5-pro": Preset(f"{_HUB}-V2.5-Pro", _PRO | _NO_END, _FUSED, NO_TOWERS),
    "v2.5-pro-fp4": Preset(f"{_HUB}-V2.5-Pro-FP4-DFlash", _PRO | _NO_END, _FP4, NO_TOWERS),
    "v2.6-flash": Preset(
        f"{_HUB}-V2.6-Flash-RL", _FLASH | {"layernorm_epsilon": 1e-6}, _V2_6, _OMNI
    ),
    "v2.6-flash-mopd": Preset(
        f"{_HUB}-V2.6-Flash-MOPD", _FLASH | {"layernorm_epsilon": 1e-6}, _V2_6, _OMNI
    ),
    "v2.6-pro": Preset(f"{_HUB}-V2.6-Pro-RL", _PRO, _V2_6, _OMNI_PRO),
}


def find_preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises
    ------
    ValueError
        If there is none; the message names all.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r}: the models are {', '.join(PRESETS)}")
    return PRESETS[name]
